// _simt: the GPU kernels on the CPU executor, for tests; no part of the package. Addresses are the host's.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/cuda/register.h"
#include "simt/executor.h"
#include "simt/faults.h"
#include "simt/observer.h"

namespace py = pybind11;

namespace {

using namespace wordkiln::simt;

const std::map<std::string, Order> kOrders = {
    {"in turn", Order::kInTurn}, {"shuffled", Order::kShuffled}, {"warp ahead", Order::kWarpAhead}};
const std::map<std::string, Copies> kCopies = {
    {"late", Copies::kLate}, {"early", Copies::kEarly}, {"random", Copies::kRandom}};

void set_schedule(const std::string& order, uint64_t seed, const std::string& copies, int resident_blocks) {
  schedule() = {kOrders.at(order), kCopies.at(copies), seed, resident_blocks};
}

using Runner = std::function<void(std::string, int, int, std::size_t, bool, py::bytes)>;

void run_launches(const std::optional<Runner>& runner) {
  if (!runner) {
    elsewhere() = nullptr;
    return;
  }
  elsewhere() = [run = *runner](const Request& r) {
    const py::gil_scoped_acquire acquire;  // the bindings let go of it
    run(r.kernel, r.blocks, r.threads, r.shared_bytes, r.cooperative, py::bytes(r.parameters));
  };
}

std::map<std::string, uint64_t> take_counters() {
  const Counters c = counters();
  counters() = {};
  return {{"launches", c.launches},
          {"mma", c.mma},
          {"ldmatrix", c.ldmatrix},
          {"bank_conflicts", c.bank_conflicts},
          {"block_barriers", c.block_barriers},
          {"grid_barriers", c.grid_barriers},
          {"shuffles", c.shuffles},
          {"async_copies", c.async_copies}};
}

}  // namespace

PYBIND11_MODULE(_simt, m) {
  m.doc() = "Wordkiln's CUDA kernels on a CPU, for tests.";
  m.def("set_schedule", &set_schedule, py::arg("order") = "in turn", py::arg("seed") = 0, py::arg("copies") = "late",
        py::arg("resident_blocks") = 64,
        "order: 'in turn', 'shuffled' or 'warp ahead'; copies: when cp.async lands, 'late', 'early' or 'random'.");
  m.def(
      "run_launches", &run_launches, py::arg("runner"),
      "Calls runner(kernel, blocks, threads, shared_bytes, cooperative, parameters) in place of the fibers; or None.");
  m.attr("finds_races") = observer() != nullptr;
  m.def("take_counters", &take_counters, "What was counted since the last call.");
  m.def("run_fault", &run_fault, py::arg("name"), "Runs a kernel with one fault, which is raised.");
  wordkiln::bindings::register_cuda_runtime(m);
  wordkiln::bindings::register_cuda_attention(m);
  wordkiln::bindings::register_cuda_cross_entropy(m);
  wordkiln::bindings::register_cuda_recurrent(m);
  wordkiln::bindings::register_cuda_recurrent_cell(m);
}
