// What every binding checks before it calls a kernel. Failures are std::invalid_argument, raised as ArgumentError.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "wordkiln/dtype.h"
#include "wordkiln/linear.h"
#include "wordkiln/rnn.h"

namespace wordkiln::bindings {

// "float32", "float64" or "bfloat16".
DType parse_dtype(const std::string& name);

// "lstm", "gru", "tanh" or "relu".
Recurrence parse_recurrence(const std::string& name);

// "float32", "bfloat16" or "int8".
LinearStorage parse_storage(const std::string& name);

// The product of `sizes`; refuses negative ones and products of 2^62 and more.
int64_t count_elements(const char* name, std::initializer_list<int64_t> sizes);

// `address` as a pointer; refuses 0 where there are elements to point to.
void* to_pointer(const char* name, uintptr_t address, int64_t elements);

}  // namespace wordkiln::bindings
