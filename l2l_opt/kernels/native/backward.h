// The derivative of one step, tile by tile.
#pragma once

#include "sums.h"

namespace l2l_opt::ISA {

template <typename State>
TARGET static void backward_part(
    const Problem& problem, const Packed& packed, const BackwardTensor* tensors, Part part, Totals& totals
) {
    constexpr int TILES = 512 / TILE;
    const int hidden = problem.hidden, last = problem.layers - 1;
    const BlockRows rows(problem);
    Workspace block_memory(rows.size * TILES), workspace((6 * hidden + problem.most_inputs()) * TILE);
    float* block = block_memory.begin();
    const int units = hidden * TILE;
    float *cell = workspace.begin(), *next_cell = cell + units, *tanh_cell = next_cell + units;
    float *d_hidden = tanh_cell + units, *d_cell = d_hidden + units, *unused = d_cell + units, *d_in = unused + units,
          *d_below = d_in + units;
    Sums sums(problem, totals);
    for (Runs<BackwardTensor> run(problem, tensors, TILE, part); run.next();) {
        const BackwardTensor& tensor = *run.tensor;
        const int64_t particle = run.particle;
        const float* bias = tensor.bias.at<float>(particle);
        sums.begin(particle);
        int tiles = 0;
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const Spot spot = run.spot(at);
            float* tile = block + rows.size * tiles;
            gather<float>(tile + rows.d_out, tensor.d_outputs, 0, problem.outputs, spot);
            for (int layer = last; layer >= 0; --layer) {
                const int below = layer ? hidden : problem.inputs;
                const int64_t row = static_cast<int64_t>(layer) * hidden;
                float* in = tile + rows.in[layer];
                float* d_gates = tile + rows.gates[layer];
                if (layer) gather<State>(in, tensor.next_hidden, row - hidden, below, spot);
                else gather<float>(in, tensor.inputs, 0, below, spot);
                gather<State>(in + below * TILE, tensor.hidden, row, hidden, spot);
                gather<State>(cell, tensor.cell, row, hidden, spot);
                gather<State>(d_cell, tensor.d_next_cell, row, hidden, spot);
                gather<State>(d_hidden, tensor.d_next_hidden, row, hidden, spot);
                if (layer == last) add_readout_gradient(packed.readout(particle), hidden, problem.outputs, tile + rows.d_out, d_hidden);
                else add_rows(d_hidden, d_below, hidden);
                forward_layer_kept(
                    packed.by_unit(particle, layer), bias + 4 * row, hidden, in, below + hidden, cell, next_cell,
                    layer == last ? tile + rows.top : unused, d_gates, tanh_cell
                );
                backward_layer_kept(hidden, cell, tanh_cell, d_hidden, d_cell, d_gates);
                backward_inputs(packed.by_input(particle, layer), hidden, below + hidden, d_gates, d_in);
                scatter<State>(tensor.d_hidden, row, d_in, hidden, spot);
                scatter<State>(tensor.d_cell, row, d_cell, hidden, spot);
                if (!layer && tensor.d_inputs.address) scatter<float>(tensor.d_inputs, 0, d_below, below, spot);
                add_row_sums(sums.biases(layer), d_gates, 4 * hidden);
            }
            add_row_sums(sums.biases(problem.layers), tile + rows.d_out, problem.outputs);
            if (++tiles == TILES || at + TILE >= run.end) {
                sums.add(rows, block, tiles);
                tiles = 0;
            }
        }
        sums.move_biases(run.index);
    }
    sums.move_products();
}

static void backward(const Problem& problem, const Packed& packed, const BackwardTensor* tensors, float* d_weights) {
    auto part = problem.state_is_bfloat16 ? backward_part<bfloat16> : backward_part<float>;
    differentiate(part, problem, packed, tensors, d_weights);
}

}  // namespace l2l_opt::ISA
