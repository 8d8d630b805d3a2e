// The step of all coordinates of all tensors and students, and its derivative, tile by tile.

// The network on one tile: put inputs into `in`, run, read `outputs` and the states after, and keep these if they please.
struct Body {
    const Shape& shape;
    Workspace memory;
    float *in, *next_hidden, *next_cell, *outputs;

    explicit Body(const Shape& shape)
        : shape(shape), memory((shape.most_inputs() + 2 * shape.hidden * shape.layers + shape.outputs) * TILE) {
        in = memory.begin();
        next_hidden = in + shape.most_inputs() * TILE;
        next_cell = next_hidden + shape.hidden * shape.layers * TILE;
        outputs = next_cell + shape.hidden * shape.layers * TILE;
    }

    template <typename State>
    TARGET void run(
        const Packed& packed, const float* bias, const Rows& hidden, const Rows& cell, int64_t particle, int64_t at, int n
    ) {
        const int64_t units = shape.hidden;
        gather(next_cell, cell.at<State>(particle, 0, at), cell.stride, units * shape.layers, n);
        for (int64_t layer = 0; layer < shape.layers; ++layer) {
            const int64_t below = layer ? units : shape.inputs, row = layer * units;
            if (layer) std::memcpy(in, next_hidden + (row - units) * TILE, sizeof(float) * units * TILE);
            gather(in + below * TILE, hidden.at<State>(particle, row, at), hidden.stride, units, n);
            forward_layer(
                packed.by_unit(particle, layer), bias + 4 * row, units, in, below + units, next_cell + row * TILE,
                next_hidden + row * TILE
            );
        }
        forward_readout(
            packed.readout(particle), bias + 4 * units * shape.layers, units, shape.outputs,
            next_hidden + (shape.layers - 1) * units * TILE, outputs
        );
    }

    template <typename State>
    TARGET void keep(const Rows& hidden, const Rows& cell, int64_t particle, int64_t at, int n) {
        scatter(hidden.at<State>(particle, 0, at), hidden.stride, next_hidden, shape.hidden * shape.layers, n);
        scatter(cell.at<State>(particle, 0, at), cell.stride, next_cell, shape.hidden * shape.layers, n);
    }
};

template <typename State>
TARGET static void forward_part(const Shape& shape, const Packed& packed, const ForwardTensor* tensors, Part part) {
    Body body(shape);
    for (Runs<ForwardTensor> run(shape, tensors, TILE, part); run.next();) {
        const ForwardTensor& tensor = *run.tensor;
        const float* bias = tensor.bias.at<float>(run.particle);
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            gather(body.in, tensor.inputs.at<float>(run.particle, 0, at), tensor.inputs.stride, shape.inputs, n);
            body.run<State>(packed, bias, tensor.hidden, tensor.cell, run.particle, at, n);
            body.keep<State>(tensor.next_hidden, tensor.next_cell, run.particle, at, n);
            scatter(tensor.outputs.at<float>(run.particle, 0, at), tensor.outputs.stride, body.outputs, shape.outputs, n);
        }
    }
}

// Where the rows of one tile lie in a block, so that products over a block read them again from the cache.
struct BlockRows {
    std::vector<int64_t> in, gates;
    int64_t top, d_out, size;
    explicit BlockRows(const Shape& shape) : top(0) {
        for (int layer = 0; layer < shape.layers; ++layer) {
            in.push_back(top * TILE);
            top += padded(shape.inputs_of(layer));
            gates.push_back(top * TILE);
            top += 4 * shape.hidden;
        }
        top *= TILE;
        d_out = top + padded(shape.hidden) * TILE;
        size = d_out + padded(shape.outputs) * TILE;
    }
};

// Sums of d_gates times inputs over coordinates, one number a lane, until they are moved to the totals.
struct Products {
    const Shape& shape;
    std::vector<int64_t> starts;
    Workspace memory;
    static std::vector<int64_t> starts_of(const Shape& shape) {
        std::vector<int64_t> starts{0};
        for (int layer = 0; layer < shape.layers; ++layer)
            starts.push_back(starts.back() + static_cast<int64_t>(4) * shape.hidden * padded(shape.inputs_of(layer)) * W);
        starts.push_back(starts.back() + static_cast<int64_t>(padded(shape.outputs)) * padded(shape.hidden) * W);
        return starts;
    }
    explicit Products(const Shape& shape) : shape(shape), starts(starts_of(shape)), memory(starts.back()) {}
    float* layer(int layer) { return memory.begin() + starts[layer]; }

    TARGET void move_to(Totals& totals, int64_t particle) {
        const int hidden = shape.hidden;
        for (int at = 0; at < shape.layers; ++at) {
            const int inputs = shape.inputs_of(at);
            float* total = totals.layer(particle, at);
            for (int r = 0; r < 4 * hidden; ++r)
                for (int k = 0; k < inputs; ++k)
                    total[(r % 4 * hidden + r / 4) * inputs + k] +=
                        sum(load(layer(at) + (static_cast<int64_t>(r) * padded(inputs) + k) * W));
        }
        float* total = totals.layer(particle, shape.layers);
        for (int o = 0; o < shape.outputs; ++o)
            for (int j = 0; j < hidden; ++j)
                total[o * hidden + j] += sum(load(layer(shape.layers) + (o * padded(hidden) + j) * W));
        std::memset(memory.begin(), 0, sizeof(float) * starts.back());
    }
};

// Sums over coordinates of d_gates and d_out, one number a lane, added to the totals and set to zero.
TARGET static void move_biases(const Shape& shape, float* sums, float* total) {
    const int64_t hidden = shape.hidden, gates = 4 * hidden * shape.layers;
    for (int64_t layer = 0; layer < shape.layers; ++layer)
        for (int64_t r = 0; r < 4 * hidden; ++r)
            total[4 * hidden * layer + r % 4 * hidden + r / 4] += sum(load(sums + (4 * hidden * layer + r) * W));
    for (int64_t o = gates; o < shape.biases(); ++o) total[o] += sum(load(sums + o * W));
    std::memset(sums, 0, sizeof(float) * shape.biases() * W);
}

template <typename State>
TARGET static void backward_part(
    const Shape& shape, const Packed& packed, const BackwardTensor* tensors, Part part, Totals& totals
) {
    constexpr int TILES = 512 / TILE;
    const int hidden = shape.hidden, last = shape.layers - 1, biases = shape.biases();
    const BlockRows rows(shape);
    Workspace block_memory(rows.size * TILES), workspace((4 * hidden + shape.most_inputs()) * TILE);
    float* block = block_memory.begin();
    float* cell = workspace.begin();
    float* d_hidden = cell + hidden * TILE;
    float* d_cell = d_hidden + hidden * TILE;
    float* unused = d_cell + hidden * TILE;
    float* d_in = unused + hidden * TILE;

    Products products(shape);
    Workspace bias_memory(biases * W);
    float* bias_sums = bias_memory.begin();
    int64_t current = -1;
    for (Runs<BackwardTensor> run(shape, tensors, TILE, part); run.next();) {
        const BackwardTensor& tensor = *run.tensor;
        const int64_t particle = run.particle;
        const float* bias = tensor.bias.at<float>(particle);
        if (current >= 0 && particle != current && shape.weight_sets > 1) products.move_to(totals, current);
        current = particle;
        int tiles = 0;
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            float* tile = block + rows.size * tiles;
            gather(tile + rows.d_out, tensor.d_outputs.at<float>(particle, 0, at), tensor.d_outputs.stride, shape.outputs, n);
            for (int layer = last; layer >= 0; --layer) {
                const int below = layer ? hidden : shape.inputs;
                const int64_t row = static_cast<int64_t>(layer) * hidden;
                float* in = tile + rows.in[layer];
                float* d_gates = tile + rows.gates[layer];
                if (layer) gather(in, tensor.next_hidden.at<State>(particle, row - hidden, at), tensor.next_hidden.stride, below, n);
                else gather(in, tensor.inputs.at<float>(particle, 0, at), tensor.inputs.stride, below, n);
                gather(in + below * TILE, tensor.hidden.at<State>(particle, row, at), tensor.hidden.stride, hidden, n);
                gather(cell, tensor.cell.at<State>(particle, row, at), tensor.cell.stride, hidden, n);
                gather(d_cell, tensor.d_next_cell.at<State>(particle, row, at), tensor.d_next_cell.stride, hidden, n);
                gather(d_hidden, tensor.d_next_hidden.at<State>(particle, row, at), tensor.d_next_hidden.stride, hidden, n);
                if (layer == last) add_readout_gradient(packed.readout(particle), hidden, shape.outputs, tile + rows.d_out, d_hidden);
                else add_rows(d_hidden, d_in, hidden);
                backward_layer(
                    packed.by_unit(particle, layer), bias + 4 * row, hidden, in, below + hidden, cell, d_hidden, d_cell,
                    d_gates, layer == last ? tile + rows.top : unused
                );
                backward_inputs(packed.by_input(particle, layer), hidden, below + hidden, d_gates, d_in);
                scatter(tensor.d_hidden.at<State>(particle, row, at), tensor.d_hidden.stride, d_in + below * TILE, hidden, n);
                scatter(tensor.d_cell.at<State>(particle, row, at), tensor.d_cell.stride, d_cell, hidden, n);
                if (!layer && tensor.d_inputs.address) scatter(tensor.d_inputs.at<float>(particle, 0, at), tensor.d_inputs.stride, d_in, below, n);
                add_row_sums(bias_sums + 4 * row * W, d_gates, 4 * hidden);
            }
            add_row_sums(bias_sums + 4 * hidden * shape.layers * W, tile + rows.d_out, shape.outputs);
            if (++tiles == TILES || at + TILE >= run.end) {
                for (int layer = 0; layer <= last; ++layer)
                    add_products(
                        products.layer(layer), block + rows.gates[layer], 4 * hidden, rows.size,
                        block + rows.in[layer], padded(shape.inputs_of(layer)), rows.size, tiles
                    );
                add_products(
                    products.layer(last + 1), block + rows.d_out, padded(shape.outputs), rows.size,
                    block + rows.top, padded(hidden), rows.size, tiles
                );
                tiles = 0;
            }
        }
        move_biases(shape, bias_sums, totals.bias(run.index, particle));
    }
    if (current >= 0) products.move_to(totals, current);
}

// Where the rows of one tile lie in one step of a replay: what BlockRows says, and cells before and tanh of them after.
struct ReplayRows : BlockRows {
    std::vector<int64_t> cell, tanh_cell;
    explicit ReplayRows(const Shape& shape) : BlockRows(shape) {
        for (int layer = 0; layer < shape.layers; ++layer) {
            cell.push_back(size);
            tanh_cell.push_back(size + shape.hidden * TILE);
            size += 2 * shape.hidden * TILE;
        }
    }
};

// Back-propagation through all steps of a window, tile by tile: a tile's steps are run again from its first state and
// all that they compute stays in cache until it is differentiated.
template <typename State>
TARGET static void replay_part(
    const Shape& shape, const Packed& packed, const ReplayTensor* tensors, int steps, Part part, Totals& totals
) {
    constexpr int TOGETHER = 4;
    const int hidden = shape.hidden, last = shape.layers - 1, biases = shape.biases();
    const int64_t units = static_cast<int64_t>(hidden) * shape.layers;
    const ReplayRows rows(shape);
    Workspace tape_memory(rows.size * (steps + 1)), workspace((2 * units + shape.most_inputs() + 4) * TILE);
    float* tape = tape_memory.begin();
    float* d_hidden = workspace.begin();
    float* d_cell = d_hidden + units * TILE;
    float* d_in = d_cell + units * TILE;
    auto at_step = [&](int step) { return tape + rows.size * step; };
    auto own = [&](int step, int layer) { return at_step(step) + rows.in[layer] + (layer ? hidden : shape.inputs) * TILE; };

    Products products(shape);
    Workspace bias_memory(biases * W);
    float* bias_sums = bias_memory.begin();
    int64_t current = -1;
    for (Runs<ReplayTensor> run(shape, tensors, TILE, part); run.next();) {
        const ReplayTensor& tensor = *run.tensor;
        const int64_t particle = run.particle;
        const float* bias = tensor.bias.at<float>(particle);
        if (current >= 0 && particle != current && shape.weight_sets > 1) products.move_to(totals, current);
        current = particle;
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            for (int layer = 0; layer <= last; ++layer) {
                const int64_t row = static_cast<int64_t>(layer) * hidden;
                gather(own(0, layer), tensor.hidden.at<State>(particle, row, at), tensor.hidden.stride, hidden, n);
                gather(tape + rows.cell[layer], tensor.cell.at<State>(particle, row, at), tensor.cell.stride, hidden, n);
            }
            for (int step = 0; step < steps; ++step) {
                float* tile = at_step(step);
                gather(
                    tile + rows.in[0], tensor.inputs.at<float>(particle, step * shape.inputs, at), tensor.inputs.stride,
                    shape.inputs, n
                );
                for (int layer = 0; layer <= last; ++layer) {
                    const int inputs = shape.inputs_of(layer);
                    forward_layer_kept(
                        packed.by_unit(particle, layer), bias + 4 * layer * hidden, hidden, tile + rows.in[layer], inputs,
                        tile + rows.cell[layer], at_step(step + 1) + rows.cell[layer], own(step + 1, layer),
                        tile + rows.gates[layer], tile + rows.tanh_cell[layer]
                    );
                    float* above = layer == last ? tile + rows.top : tile + rows.in[layer + 1];
                    std::memcpy(above, own(step + 1, layer), sizeof(float) * hidden * TILE);
                }
            }
            gather(d_hidden, tensor.d_last_hidden.at<float>(particle, 0, at), tensor.d_last_hidden.stride, units, n);
            gather(d_cell, tensor.d_last_cell.at<float>(particle, 0, at), tensor.d_last_cell.stride, units, n);
            for (int step = steps - 1, since = 0; step >= 0; --step) {
                float* tile = at_step(step);
                gather(
                    tile + rows.d_out, tensor.d_outputs.at<float>(particle, step * shape.outputs, at),
                    tensor.d_outputs.stride, shape.outputs, n
                );
                add_readout_gradient(
                    packed.readout(particle), hidden, shape.outputs, tile + rows.d_out, d_hidden + last * hidden * TILE
                );
                add_row_sums(bias_sums + 4 * units * W, tile + rows.d_out, shape.outputs);
                for (int layer = last; layer >= 0; --layer) {
                    const int below = layer ? hidden : shape.inputs;
                    float* d_own = d_hidden + layer * hidden * TILE;
                    float* gates = tile + rows.gates[layer];
                    backward_layer_kept(
                        hidden, tile + rows.cell[layer], tile + rows.tanh_cell[layer], d_own, d_cell + layer * hidden * TILE, gates
                    );
                    backward_inputs(packed.by_input(particle, layer), hidden, below + hidden, gates, d_in);
                    std::memcpy(d_own, d_in + below * TILE, sizeof(float) * hidden * TILE);
                    if (layer) add_rows(d_own - hidden * TILE, d_in, hidden);
                    else if (tensor.d_inputs.address)
                        scatter(
                            tensor.d_inputs.at<float>(particle, step * shape.inputs, at), tensor.d_inputs.stride, d_in, below, n
                        );
                    add_row_sums(bias_sums + 4 * layer * hidden * W, gates, 4 * hidden);
                }
                if (++since == TOGETHER || step == 0) {
                    for (int layer = 0; layer <= last; ++layer)
                        add_products(
                            products.layer(layer), tile + rows.gates[layer], 4 * hidden, rows.size,
                            tile + rows.in[layer], padded(shape.inputs_of(layer)), rows.size, since
                        );
                    add_products(
                        products.layer(last + 1), tile + rows.d_out, padded(shape.outputs), rows.size, tile + rows.top,
                        padded(hidden), rows.size, since
                    );
                    since = 0;
                }
            }
        }
        move_biases(shape, bias_sums, totals.bias(run.index, particle));
    }
    if (current >= 0) products.move_to(totals, current);
}

template <typename Tensor, typename Function>
static void over_threads(const Shape& shape, const Tensor* tensors, int threads, Function run) {
    const int64_t tiles = shape.particles * tiles_of_particle(shape, tensors, TILE);
    share(tiles, worthwhile(threads, tiles, TILE), run);
}

static void forward(const Shape& shape, const Packed& packed, const ForwardTensor* tensors, int threads, bool bf16) {
    auto part = bf16 ? forward_part<bfloat16> : forward_part<float>;
    over_threads(shape, tensors, threads, [&](Part own, int) { part(shape, packed, tensors, own); });
}

static void backward(
    const Shape& shape, const Packed& packed, const BackwardTensor* tensors, float* d_weights, int threads, bool bf16
) {
    auto part = bf16 ? backward_part<bfloat16> : backward_part<float>;
    std::vector<Totals> totals(threads, Totals(shape));
    over_threads(shape, tensors, threads, [&](Part own, int thread) {
        part(shape, packed, tensors, own, totals[thread]);
    });
    for (auto& total : totals) total.add_to(d_weights, tensors);
}

static void replay(
    const Shape& shape, const Packed& packed, const ReplayTensor* tensors, int steps, float* d_weights, int threads, bool bf16
) {
    auto part = bf16 ? replay_part<bfloat16> : replay_part<float>;
    std::vector<Totals> totals(threads, Totals(shape));
    over_threads(shape, tensors, threads, [&](Part own, int thread) {
        part(shape, packed, tensors, steps, own, totals[thread]);
    });
    for (auto& total : totals) total.add_to(d_weights, tensors);
}
