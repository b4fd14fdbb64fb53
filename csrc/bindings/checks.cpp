#include "bindings/checks.h"

#include <stdexcept>

namespace wordkiln::bindings {

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "bfloat16") return DType::kBfloat16;
  throw std::invalid_argument("dtype='" + name + "': must be 'float32', 'float64' or 'bfloat16'");
}

Recurrence parse_recurrence(const std::string& name) {
  if (name == "lstm") return Recurrence::kLstm;
  if (name == "gru") return Recurrence::kGru;
  if (name == "tanh") return Recurrence::kTanh;
  if (name == "relu") return Recurrence::kRelu;
  throw std::invalid_argument("kind='" + name + "': must be 'lstm', 'gru', 'tanh' or 'relu'");
}

LinearStorage parse_storage(const std::string& name) {
  if (name == "float32") return LinearStorage::kFloat32;
  if (name == "bfloat16") return LinearStorage::kBfloat16;
  if (name == "int8") return LinearStorage::kInt8;
  throw std::invalid_argument("storage='" + name + "': must be 'float32', 'bfloat16' or 'int8'");
}

int64_t count_elements(const char* name, std::initializer_list<int64_t> sizes) {
  // A size of 0 makes the product 0 but does not excuse the others: strides are built from them.
  int64_t product = 1, largest = 1;
  for (const int64_t size : sizes) {
    if (size < 0)
      throw std::invalid_argument(std::string(name) + ": size " + std::to_string(size) + " must be at least 0");
    if (__builtin_mul_overflow(largest, size > 0 ? size : 1, &largest) || largest >= int64_t{1} << 62) {
      throw std::invalid_argument(std::string(name) + ": must have fewer than 2^62 elements");
    }
    product *= size;
  }
  return product;
}

void* to_pointer(const char* name, uintptr_t address, int64_t elements) {
  if (address == 0 && elements > 0) throw std::invalid_argument(std::string(name) + ": address must not be 0");
  return reinterpret_cast<void*>(address);
}

}  // namespace wordkiln::bindings
