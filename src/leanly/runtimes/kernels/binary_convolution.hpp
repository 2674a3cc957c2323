// Convolution of signs with signs: xor, and a count of the bits that differ (Rastegari et al. 2016, "XNOR-Net").
//
// A bit a value, plus as 1; the channels of one tap lie side by side in whole bytes, the taps of one output behind each
// other in whole 64-bit words. A block of filters is counted at once, a lane each, so that no lane is summed up. What
// lies outside the image counts as zero, as it does in every other convolution: its taps are given zero bits, and what
// the weights alone then count there is taken off again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace leanly {

constexpr int64_t LANES = 32;
constexpr int64_t WORD = sizeof(uint64_t);
constexpr int64_t TILE = 16;             // outputs that are computed together
constexpr int64_t PIECES = 32;           // that work is split into, at least
constexpr int64_t LEAST_WORK = 1 << 16;  // words compared; with fewer, waking a thread takes longer than the work

struct Shape {
    int64_t channels, height, width;
    int64_t filters, kernel_height, kernel_width;
    int64_t stride_height, stride_width, pad_top, pad_left, dilation_height, dilation_width;
    int64_t out_height, out_width;

    int64_t taps() const { return kernel_height * kernel_width; }
    int64_t tap_bytes() const { return (channels + 7) / 8; }
    int64_t words() const { return (taps() * tap_bytes() + WORD - 1) / WORD; }
    int64_t blocks() const { return (filters + LANES - 1) / LANES; }
};

// Work that may be split: from 0 to count, by a function of (start, stop).
using Range = std::function<void(int64_t, int64_t)>;
using Parallel = std::function<void(int64_t, const Range&)>;

// How a block of filters lies in memory: words [words, lanes], or half bytes [bytes, low and high, lanes].
enum class Order { words, half_bytes };

// Counts the differing bits of `pixels` rows of `words` words and of a block: `differing[pixel * LANES + lane]`.
using Count = void (*)(
    const uint64_t* rows, const uint8_t* block, int64_t words, int64_t pixels, int32_t* differing);

inline void count_portable(
    const uint64_t* rows, const uint8_t* block, int64_t words, int64_t pixels, int32_t* differing) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        int32_t sums[LANES] = {};
        for (int64_t word = 0; word < words; ++word) {
            uint64_t held[LANES];
            std::memcpy(held, block + word * sizeof(held), sizeof(held));
            for (int64_t lane = 0; lane < LANES; ++lane)
                sums[lane] += __builtin_popcountll(rows[pixel * words + word] ^ held[lane]);
        }
        std::memcpy(differing + pixel * LANES, sums, sizeof(sums));
    }
}

#if defined(__x86_64__)

// For each byte of a row, in how many bits every half byte differs from its low half, then from its high half.
struct Differences {
    alignas(32) uint8_t of[256][32] = {};

    constexpr Differences() {
        for (int byte = 0; byte < 256; ++byte)
            for (int half = 0; half < 16; ++half) {
                of[byte][half] = static_cast<uint8_t>(__builtin_popcount((byte & 15) ^ half));
                of[byte][16 + half] = static_cast<uint8_t>(__builtin_popcount((byte >> 4) ^ half));
            }
    }
};
inline constexpr Differences DIFFERENCES;

// Instead of counting bits, four at a time are looked up for all lanes by one shuffle: the row's bits choose the table,
// the filters' bits the place in it (as T-MAC does for weights of few bits, Wei et al. 2024).
template <int TOGETHER>
__attribute__((target("avx2"))) inline void count_rows_avx2(
    const uint8_t* rows, const uint8_t* block, int64_t bytes, int32_t* differing) {
    constexpr int64_t BEFORE_OVERFLOW = 31;  // bytes of a row, each of which adds eight at most
    std::fill(differing, differing + TOGETHER * LANES, 0);
    for (int64_t start = 0; start < bytes; start += BEFORE_OVERFLOW) {
        const int64_t stop = std::min(bytes, start + BEFORE_OVERFLOW);
        __m256i sums[TOGETHER];
        for (int i = 0; i < TOGETHER; ++i) sums[i] = _mm256_setzero_si256();
        for (int64_t byte = start; byte < stop; ++byte) {
            const auto* held = reinterpret_cast<const __m256i*>(block + byte * 2 * LANES);
            const __m256i low = _mm256_loadu_si256(held), high = _mm256_loadu_si256(held + 1);
            for (int i = 0; i < TOGETHER; ++i) {
                const auto* table = reinterpret_cast<const __m128i*>(DIFFERENCES.of[rows[i * bytes + byte]]);
                const __m256i to_low = _mm256_broadcastsi128_si256(_mm_load_si128(table));
                const __m256i to_high = _mm256_broadcastsi128_si256(_mm_load_si128(table + 1));
                sums[i] = _mm256_add_epi8(sums[i], _mm256_shuffle_epi8(to_low, low));
                sums[i] = _mm256_add_epi8(sums[i], _mm256_shuffle_epi8(to_high, high));
            }
        }
        for (int i = 0; i < TOGETHER; ++i) {
            alignas(32) uint8_t found[LANES];
            _mm256_store_si256(reinterpret_cast<__m256i*>(found), sums[i]);
            for (int64_t lane = 0; lane < LANES; ++lane) differing[i * LANES + lane] += found[lane];
        }
    }
}

__attribute__((target("avx2"))) inline void count_avx2(
    const uint64_t* rows, const uint8_t* block, int64_t words, int64_t pixels, int32_t* differing) {
    constexpr int64_t TOGETHER = 4;  // rows that share a load of the filters
    const auto* bytes = reinterpret_cast<const uint8_t*>(rows);
    int64_t pixel = 0;
    for (; pixel + TOGETHER <= pixels; pixel += TOGETHER)
        count_rows_avx2<TOGETHER>(bytes + pixel * words * WORD, block, words * WORD, differing + pixel * LANES);
    for (; pixel < pixels; ++pixel)
        count_rows_avx2<1>(bytes + pixel * words * WORD, block, words * WORD, differing + pixel * LANES);
}

__attribute__((target("avx512f,avx512vpopcntdq"))) inline void count_avx512(
    const uint64_t* rows, const uint8_t* block, int64_t words, int64_t pixels, int32_t* differing) {
    constexpr int64_t TOGETHER = 4, PART = 8;  // rows that share a load of the filters; lanes of one register
    for (int64_t pixel = 0; pixel < pixels; pixel += TOGETHER) {
        const int64_t some = std::min(TOGETHER, pixels - pixel);
        const uint64_t* at[TOGETHER];
        for (int64_t i = 0; i < TOGETHER; ++i) at[i] = rows + (pixel + std::min(i, some - 1)) * words;
        for (int64_t lane = 0; lane < LANES; lane += PART) {
            __m512i sums[TOGETHER] = {};
            for (int64_t word = 0; word < words; ++word) {
                const __m512i held = _mm512_loadu_si512(block + (word * LANES + lane) * WORD);
                for (int64_t i = 0; i < TOGETHER; ++i) {
                    const __m512i differ = _mm512_xor_si512(held, _mm512_set1_epi64(static_cast<int64_t>(at[i][word])));
                    sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(differ));
                }
            }
            for (int64_t i = 0; i < some; ++i)
                _mm256_storeu_si256(
                    reinterpret_cast<__m256i*>(differing + (pixel + i) * LANES + lane),
                    _mm512_cvtepi64_epi32(sums[i]));
        }
    }
}

#endif

struct Level {
    const char* name;
    Order order;
    Count count;
};

// What this processor runs, the fastest first.
inline std::vector<Level> levels() {
    std::vector<Level> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vpopcntdq")) found.push_back({"avx512_vpopcntdq", Order::words, count_avx512});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", Order::half_bytes, count_avx2});
#endif
    found.push_back({"portable", Order::words, count_portable});
    return found;
}

// Filters as a level reads them, made once from `[filters, taps, tap bytes]`.
struct Filters {
    Count count;
    int64_t block_bytes;
    std::vector<uint8_t> bits;  // [blocks, block bytes]
    std::vector<int32_t> ones;  // [taps, blocks * lanes]: bits set, what a tap outside the image would count

    Filters(const uint8_t* packed, const Shape& shape, const Level& level)
        : count(level.count),
          block_bytes(shape.words() * WORD * LANES * (level.order == Order::half_bytes ? 2 : 1)),
          bits(shape.blocks() * block_bytes),
          ones(shape.taps() * shape.blocks() * LANES) {
        const int64_t tap_bytes = shape.tap_bytes(), row = shape.taps() * tap_bytes;
        for (int64_t o = 0; o < shape.filters; ++o) {
            uint8_t* block = bits.data() + o / LANES * block_bytes;
            const int64_t lane = o % LANES;
            for (int64_t byte = 0; byte < row; ++byte) {
                const uint8_t value = packed[o * row + byte];
                if (level.order == Order::half_bytes) {
                    block[2 * byte * LANES + lane] = value & 15;
                    block[(2 * byte + 1) * LANES + lane] = value >> 4;
                } else {
                    block[(byte / WORD * LANES + lane) * WORD + byte % WORD] = value;
                }
                ones[byte / tap_bytes * shape.blocks() * LANES + o] += __builtin_popcount(value);
            }
        }
    }
};

// Eight channels of an image to a byte a pixel.
inline void pack_channels(
    const float* image, const float* threshold, const Shape& shape, int64_t byte, uint8_t* bits) {
    constexpr int64_t TOGETHER = 256;
    const int64_t pixels = shape.height * shape.width, tap_bytes = shape.tap_bytes();
    const int64_t channels = std::min<int64_t>(8, shape.channels - 8 * byte);
    for (int64_t start = 0; start < pixels; start += TOGETHER) {
        const int64_t some = std::min(TOGETHER, pixels - start);
        uint8_t packed[TOGETHER] = {};
        for (int64_t bit = 0; bit < channels; ++bit) {
            const float* plane = image + (8 * byte + bit) * pixels + start;
            const float least = threshold[8 * byte + bit];
            const uint8_t set = static_cast<uint8_t>(1 << bit);
            for (int64_t i = 0; i < some; ++i) packed[i] |= plane[i] >= least ? set : 0;
        }
        for (int64_t i = 0; i < some; ++i) bits[(start + i) * tap_bytes + byte] = packed[i];
    }
}

// Outputs that follow each other, of one image or of several, and some of the filters.
class Outputs {
public:
    Outputs(const Shape& shape, const Filters& filters)
        : shape_(shape), filters_(filters), rows_(TILE * shape.words()), differing_(TILE * LANES) {}

    // Collects the bits under each output; the rest of the last word stays zero, in the filters too.
    void gather(const uint8_t* bits, int64_t first, int64_t last) {
        const int64_t plane = shape_.out_height * shape_.out_width, tap_bytes = shape_.tap_bytes();
        count_ = last - first;
        outside_.clear();
        std::fill(rows_.begin(), rows_.end(), 0);
        for (int64_t i = 0; i < count_; ++i) {
            const int64_t image = (first + i) / plane, pixel = (first + i) % plane;
            const int64_t top = pixel / shape_.out_width * shape_.stride_height - shape_.pad_top;
            const int64_t left = pixel % shape_.out_width * shape_.stride_width - shape_.pad_left;
            auto* row = reinterpret_cast<uint8_t*>(rows_.data() + i * shape_.words());
            const size_t before = outside_.size();
            for (int64_t tap = 0, ky = 0; ky < shape_.kernel_height; ++ky) {
                for (int64_t kx = 0; kx < shape_.kernel_width; ++kx, ++tap) {
                    const int64_t y = top + ky * shape_.dilation_height, x = left + kx * shape_.dilation_width;
                    if (y < 0 || y >= shape_.height || x < 0 || x >= shape_.width) {
                        outside_.push_back({i, tap});
                        continue;
                    }
                    const int64_t from = (image * shape_.height + y) * shape_.width + x;
                    std::memcpy(row + tap * tap_bytes, bits + from * tap_bytes, tap_bytes);
                }
            }
            place_[i] = image * shape_.filters * plane + pixel;
            const auto inside = shape_.taps() - static_cast<int64_t>(outside_.size() - before);
            inside_[i] = static_cast<int32_t>(inside * shape_.channels);
        }
    }

    void compute(int64_t block, const float* factor, const float* bias, float* out) {
        const int64_t plane = shape_.out_height * shape_.out_width;
        const uint8_t* held = filters_.bits.data() + block * filters_.block_bytes;
        filters_.count(rows_.data(), held, shape_.words(), count_, differing_.data());
        for (const auto& [i, tap] : outside_) {
            const int32_t* ones = filters_.ones.data() + (tap * shape_.blocks() + block) * LANES;
            for (int64_t lane = 0; lane < LANES; ++lane) differing_[i * LANES + lane] -= ones[lane];
        }
        const int64_t stop = std::min(shape_.filters, (block + 1) * LANES);
        for (int64_t o = block * LANES; o < stop; ++o) {
            const int32_t* found = differing_.data() + o % LANES;
            float* to = out + o * plane;
            for (int64_t i = 0; i < count_; ++i)
                to[place_[i]] = static_cast<float>(inside_[i] - 2 * found[i * LANES]) * factor[o] + bias[o];
        }
    }

private:
    struct Tap {
        int64_t output, tap;
    };

    const Shape& shape_;
    const Filters& filters_;
    std::vector<uint64_t> rows_;
    std::vector<int32_t> differing_;
    std::vector<Tap> outside_;  // of the image
    int64_t count_ = 0;
    int64_t place_[TILE];
    int32_t inside_[TILE];
};

// out[n, o] = factor[o] * (signs of x[n] convolved with the signs of filter o) + bias[o].
//
// x: [batch, channels, height, width]; threshold: [channels]; factor, bias: [filters].
inline void convolve_signs(
    const float* x, const float* threshold, const Filters& filters, const float* factor, const float* bias,
    const Shape& shape, int64_t batch, const Parallel& threads, float* out) {
    const int64_t pixels = shape.height * shape.width, tap_bytes = shape.tap_bytes();
    const int64_t outputs = batch * shape.out_height * shape.out_width, blocks = shape.blocks();
    const Parallel alone = [](int64_t count, const Range& work) { work(0, count); };
    const Parallel& parallel = outputs * shape.filters * shape.words() < LEAST_WORK ? alone : threads;
    std::vector<uint8_t> bits(batch * pixels * tap_bytes);
    parallel(batch * tap_bytes, [&](int64_t start, int64_t stop) {
        for (int64_t i = start; i < stop; ++i) {
            const int64_t image = i / tap_bytes;
            pack_channels(
                x + image * shape.channels * pixels, threshold, shape, i % tap_bytes,
                bits.data() + image * pixels * tap_bytes);
        }
    });
    // where there are few outputs, as in a linear layer, threads share out the filters
    const int64_t tiles = (outputs + TILE - 1) / TILE;
    const int64_t parts = std::min(blocks, std::max<int64_t>(1, PIECES / std::max<int64_t>(tiles, 1)));
    parallel(tiles * parts, [&](int64_t start, int64_t stop) {
        Outputs some(shape, filters);
        int64_t gathered = -1;
        for (int64_t i = start; i < stop; ++i) {
            const int64_t tile = i / parts, part = i % parts;
            if (tile != gathered) some.gather(bits.data(), tile * TILE, std::min(outputs, (tile + 1) * TILE));
            gathered = tile;
            for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block)
                some.compute(block, factor, bias, out);
        }
    });
}

}  // namespace leanly
