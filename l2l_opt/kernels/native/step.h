// A step of an optimizer in place, as all kinds of rules see it.
//
// A kind is given its rule's numbers and a tensor's (KindOf). features() fills the network's inputs for one tile and brings its
// moments up to date; output() makes updates of the network's outputs. A kind that NEEDS_SUMS reads a tensor as a whole before:
// start() before anything else, prepare() at every tile for sums, combine() at what these sums come to. Of a kind that
// LEAVES_DIRECTIONS updates are made when all coordinates have theirs (directions.h): of a matrix of rows() by what finish()
// makes of them; it has count_step() for its clock.
#pragma once

#include <cmath>
#include <vector>

#include "forward.h"
#include "kernels.h"

namespace l2l_opt {

template <typename Layout>
struct KindOf {
    struct Set {
        const typename Layout::Options* options;
        typename Layout::Arrays arrays;
    };

    const Problem& problem;
    const typename Layout::Options* options = nullptr;
    const typename Layout::Arrays* arrays = nullptr;
    const typename Layout::Given* given = nullptr;
    const typename Layout::Scalars* scalars = nullptr;
    int64_t particle = 0;

    explicit KindOf(const StepCall& call) : problem(call.problem) {}

    void read(const StepCall& call, const StepTensor& tensor, int64_t own_particle) {
        particle = own_particle;
        const Set& set = reinterpret_cast<const Set*>(call.options)[problem.set_of(particle)];
        options = set.options;
        arrays = &set.arrays;
        given = reinterpret_cast<const typename Layout::Given*>(tensor.given.at<float>(particle));
        scalars = reinterpret_cast<const typename Layout::Scalars*>(tensor.scalars.address);
    }
};

// NaN passes through.
inline float between(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

constexpr int SUMS = 10;
constexpr float PI = 3.14159265358979f;

// What the coordinates of one tensor share, from sums over them.
struct Shared {
    double sums[SUMS] = {};
    float size = 0, power = 0, eps = 0, over_rms = 0, over_root_rms = 0;
    std::vector<float> biases;

    // A sum of squares of next to nothing, less that of the padding, may come out below zero.
    float rms(int which, int64_t count) const {
        return static_cast<float>(std::sqrt(std::max(sums[which], 0.0) / static_cast<double>(std::max<int64_t>(count, 1))));
    }
};

}  // namespace l2l_opt
