//! With feature `cpp`: builds `csrc/` with CMake and installs `_kernels*.so` into OUT_DIR, from where maturin takes it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    if env::var_os("CARGO_FEATURE_CPP").is_none() {
        return;
    }
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let csrc = manifest_dir.join("../../csrc");
    println!("cargo::rerun-if-changed={}", csrc.display());
    for name in ["PYO3_PYTHON", "PYO3_ENVIRONMENT_SIGNATURE", "CXX", "CUDACXX", "WORDKILN_CUDA"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    // A module left by a build for another Python would be shipped with this one.
    fs::remove_dir_all(&out_dir).expect("OUT_DIR can be emptied");
    fs::create_dir_all(&out_dir).expect("OUT_DIR can be created");

    let python = env::var_os("PYO3_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let build_dir = cmake_build_dir(&out_dir);
    configure(&csrc, &build_dir, &python);
    run(Command::new("cmake").arg("--build").arg(&build_dir));
    run(Command::new("cmake").arg("--install").arg(&build_dir).arg("--prefix").arg(&out_dir));
}

/// One CMake folder per interpreter, kept between builds so that an edit in csrc/ recompiles only what it touches.
/// It stands beside cargo's own folders because OUT_DIR itself changes with every feature set.
fn cmake_build_dir(out_dir: &Path) -> PathBuf {
    // OUT_DIR is <target>[/triple]/<profile>/build/<package>-<hash>/out.
    let profile_dir = out_dir.ancestors().nth(3).expect("OUT_DIR lies in cargo's target folder");
    let signature = env::var("PYO3_ENVIRONMENT_SIGNATURE").unwrap_or_else(|_| "default".into());
    let folder: String = signature.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    profile_dir.join("cmake").join(folder)
}

fn configure(csrc: &Path, build_dir: &Path, python: &Path) {
    // The build environment's own script: with `use-base-python` PYO3_PYTHON is an interpreter that has no pybind11.
    let pybind11_dir = output(Command::new("pybind11-config").arg("--cmakedir"));
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(csrc).arg("-B").arg(build_dir).args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]);
    if configured_for_another(csrc, build_dir) {
        // A target folder that clones share, as CI's is: CMake refuses a cache made for other sources.
        cmake.arg("--fresh");
    }
    // By name, not by path: a build environment's full path dies with it and CMake would keep it in its cache.
    cmake.arg("-DCMAKE_MAKE_PROGRAM=ninja");
    cmake.arg(format!("-DPython_EXECUTABLE={}", python.display()));
    cmake.arg(format!("-Dpybind11_DIR={}", pybind11_dir.trim()));
    // Always said: CMake would keep what an earlier build asked for.
    cmake.arg(format!("-DWORDKILN_CUDA={}", env::var("WORDKILN_CUDA").unwrap_or_else(|_| "OFF".into())));
    run(&mut cmake);
}

fn configured_for_another(csrc: &Path, build_dir: &Path) -> bool {
    let Ok(cache) = fs::read_to_string(build_dir.join("CMakeCache.txt")) else { return false };
    let home = cache.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    home.is_none_or(|home| canonical(Path::new(home)) != canonical(csrc))
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(status.success(), "{command:?} failed: {status}");
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("a path in UTF-8")
}
