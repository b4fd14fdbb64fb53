//! Python integers for ids, made once: a list of ids then only counts references.

use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// An owned reference for each id that a list was made of, else null.
pub struct Ints(Box<[AtomicPtr<ffi::PyObject>]>);

impl Ints {
    pub fn new(size: usize) -> Self {
        Self((0..size).map(|_| AtomicPtr::default()).collect())
    }

    /// A list of `ids`.
    pub fn list<'py>(&self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        let size = ids.len() as ffi::Py_ssize_t;
        // SAFETY: a new reference to a list, or null with an exception set.
        let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(size))? };
        for (index, &id) in ids.iter().enumerate() {
            let int = self.get(py, id)?;
            // SAFETY: the list is new, has `size` empty places, and takes the reference that is made here.
            unsafe {
                ffi::Py_INCREF(int);
                ffi::PyList_SET_ITEM(list.as_ptr(), index as ffi::Py_ssize_t, int);
            }
        }
        Ok(list.cast_into::<PyList>()?)
    }

    /// A borrowed reference that lives as long as the table.
    #[inline]
    fn get(&self, py: Python<'_>, id: u32) -> PyResult<*mut ffi::PyObject> {
        let place = &self.0[id as usize];
        let known = place.load(Ordering::Acquire);
        if known.is_null() { make(py, place, id) } else { Ok(known) }
    }
}

#[cold]
fn make(py: Python<'_>, place: &AtomicPtr<ffi::PyObject>, id: u32) -> PyResult<*mut ffi::PyObject> {
    let int = id.into_pyobject(py)?.into_ptr();
    match place.compare_exchange(std::ptr::null_mut(), int, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(int),
        Err(known) => {
            // SAFETY: another thread was first; this reference is ours and not used.
            unsafe { ffi::Py_DECREF(int) };
            Ok(known)
        }
    }
}

impl Drop for Ints {
    fn drop(&mut self) {
        Python::attach(|_| {
            for int in &mut self.0 {
                // SAFETY: the reference is the table's own, and null is allowed.
                unsafe { ffi::Py_XDECREF(*int.get_mut()) };
            }
        });
    }
}
