// The derivative of a window of steps of which nothing but the inputs was kept, tile by tile.
#pragma once

#include "sums.h"

namespace l2l_opt::ISA {

// Where the rows of one tile lie in one step of a replay: as BlockRows has it, and cells before and tanh of them after.
struct ReplayRows : BlockRows {
    std::vector<int64_t> cell, tanh_cell;
    explicit ReplayRows(const Problem& problem) : BlockRows(problem) {
        for (int layer = 0; layer < problem.layers; ++layer) {
            cell.push_back(size);
            tanh_cell.push_back(size + problem.hidden * TILE);
            size += 2 * problem.hidden * TILE;
        }
    }
};

// Back-propagation through all steps of a window, tile by tile: a tile's steps are run again from its first state and
// all that they compute stays in cache until it is differentiated.
template <typename State>
struct Replay {
    Replay(const Problem& problem, const Packed& packed, Totals& totals)
        : problem(problem), packed(packed), rows(problem), tape(rows.size * (problem.steps + 1)),
          workspace((2 * problem.hidden * problem.layers + problem.most_inputs() + 4) * TILE), sums(problem, totals) {}

    TARGET void run_again(const ReplayTensor& tensor, const Spot& spot) {
        const int hidden = problem.hidden, last = problem.layers - 1;
        const float* bias = tensor.bias.at<float>(spot.particle);
        for (int layer = 0; layer <= last; ++layer) {
            gather<State>(own(0, layer), tensor.hidden, layer * hidden, hidden, spot);
            gather<State>(at_step(0) + rows.cell[layer], tensor.cell, layer * hidden, hidden, spot);
        }
        for (int step = 0; step < problem.steps; ++step) {
            float* tile = at_step(step);
            gather<float>(tile + rows.in[0], tensor.inputs, step * problem.inputs, problem.inputs, spot);
            for (int layer = 0; layer <= last; ++layer) {
                forward_layer_kept(
                    packed.by_unit(spot.particle, layer), bias + 4 * layer * hidden, hidden, tile + rows.in[layer],
                    problem.inputs_of(layer), tile + rows.cell[layer], at_step(step + 1) + rows.cell[layer],
                    own(step + 1, layer), tile + rows.gates[layer], tile + rows.tanh_cell[layer]
                );
                float* above = layer == last ? tile + rows.top : tile + rows.in[layer + 1];
                std::memcpy(above, own(step + 1, layer), sizeof(float) * hidden * TILE);
            }
        }
    }

    TARGET void differentiate(const ReplayTensor& tensor, const Spot& spot) {
        constexpr int TOGETHER = 4;
        const int hidden = problem.hidden, last = problem.layers - 1, units = hidden * problem.layers;
        float *d_hidden = workspace.begin(), *d_cell = d_hidden + units * TILE, *d_in = d_cell + units * TILE,
              *d_below = d_in + hidden * TILE;
        gather<float>(d_hidden, tensor.d_last_hidden, 0, units, spot);
        gather<float>(d_cell, tensor.d_last_cell, 0, units, spot);
        for (int step = problem.steps - 1, since = 0; step >= 0; --step) {
            float *tile = at_step(step), *d_out = tile + rows.d_out;
            gather<float>(d_out, tensor.d_outputs, step * problem.outputs, problem.outputs, spot);
            add_readout_gradient(packed.readout(spot.particle), hidden, problem.outputs, d_out, d_hidden + last * hidden * TILE);
            add_row_sums(sums.biases(problem.layers), d_out, problem.outputs);
            for (int layer = last; layer >= 0; --layer) {
                const int below = layer ? hidden : problem.inputs, skip = layer * hidden * TILE;
                float *d_own = d_hidden + skip, *gates = tile + rows.gates[layer];
                backward_layer_kept(hidden, tile + rows.cell[layer], tile + rows.tanh_cell[layer], d_own, d_cell + skip, gates);
                const bool goes_on = layer || tensor.d_inputs.address;
                backward_inputs(packed.by_input(spot.particle, layer), hidden, hidden + (goes_on ? below : 0), gates, d_in);
                std::memcpy(d_own, d_in, sizeof(float) * hidden * TILE);
                if (layer) add_rows(d_own - hidden * TILE, d_below, hidden);
                else if (goes_on) scatter<float>(tensor.d_inputs, step * problem.inputs, d_below, below, spot);
                add_row_sums(sums.biases(layer), gates, 4 * hidden);
            }
            if (++since == TOGETHER || step == 0) {
                sums.add(rows, tile, since);
                since = 0;
            }
        }
    }

    float* at_step(int step) { return tape.begin() + rows.size * step; }
    float* own(int step, int layer) {
        return at_step(step) + rows.in[layer] + (layer ? problem.hidden : problem.inputs) * TILE;
    }

    const Problem& problem;
    const Packed& packed;
    ReplayRows rows;
    Workspace tape, workspace;
    Sums sums;
};

template <typename State>
TARGET static void replay_part(
    const Problem& problem, const Packed& packed, const ReplayTensor* tensors, Part part, Totals& totals
) {
    Replay<State> replay(problem, packed, totals);
    for (Runs<ReplayTensor> run(problem, tensors, TILE, part); run.next();) {
        replay.sums.begin(run.particle);
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            replay.run_again(*run.tensor, run.spot(at));
            replay.differentiate(*run.tensor, run.spot(at));
        }
        replay.sums.move_biases(run.index);
    }
    replay.sums.move_products();
}

static void replay(const Problem& problem, const Packed& packed, const ReplayTensor* tensors, float* d_weights) {
    auto part = problem.state_is_bfloat16 ? replay_part<bfloat16> : replay_part<float>;
    differentiate(part, problem, packed, tensors, d_weights);
}

}  // namespace l2l_opt::ISA
