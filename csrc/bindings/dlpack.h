// The part of the DLPack 1.3 interface that tensor.cpp calls: `__dlpack_c_exchange_api__`, C functions by which a
// tensor library shows its tensors to others. The layout is the standard's (github.com/dmlc/dlpack).
#pragma once

#include <cstdint>

namespace wordkiln::bindings::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1, kCuda = 2;
constexpr uint8_t kInt = 0, kFloat = 2, kBfloat = 4;

struct Version {
  uint32_t major, minor;
};

struct Device {
  int32_t type, id;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

// The functions that are not called here stand as pointers of no type.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  void* to_managed;
  void* to_object;
  int (*view)(void* object, Tensor* out);  // borrowed; -1 with a Python error set
  void* current_stream;
};

}  // namespace wordkiln::bindings::dlpack
