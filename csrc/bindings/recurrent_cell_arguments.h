// What the bindings of a cell's step on the CPU and on a GPU share. What lies behind the addresses is not looked at.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <tuple>

#include "wordkiln/recurrent_cell.h"

namespace wordkiln::bindings {

// Addresses in the order of the struct's pointers, 0 for null: one tuple serves all steps of a call.
using CellForwardArrays = std::array<uintptr_t, 14>;
using CellBackwardArrays = std::array<uintptr_t, 22>;
using CellSizes = std::tuple<int64_t, int64_t, int64_t>;                   // steps, batch, hidden
using CellZoneout = std::tuple<double, double, bool, uint64_t, uint32_t>;  // as Zoneout

// Refuse what no step may be called with.
CellForward to_cell_forward(const std::string& kind, const CellForwardArrays& arrays, const CellSizes& sizes,
                            int64_t step, const CellZoneout& zoneout, double eps, bool keep);
CellBackward to_cell_backward(const std::string& kind, const CellBackwardArrays& arrays, const CellSizes& sizes,
                              int64_t step, const CellZoneout& zoneout);

}  // namespace wordkiln::bindings
