// Products of signs with signs, in convolutions and linear layers: xor, and a count of the bits that differ (Rastegari
// et al. 2016, "XNOR-Net").
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

constexpr int64_t LANES = 64;
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
    int64_t block_bytes() const { return words() * WORD * LANES; }

    // That of a linear layer.
    static Shape of_rows(int64_t columns, int64_t filters) {
        return {columns, 1, 1, filters, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1};
    }
};

// Work that may be split: from 0 to count, by a function of (start, stop).
using Range = std::function<void(int64_t, int64_t)>;
using Parallel = std::function<void(int64_t, const Range&)>;

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
    constexpr int REGISTERS = LANES / 32;
    const __m256i half = _mm256_set1_epi8(15);
    std::fill(differing, differing + TOGETHER * LANES, 0);
    for (int64_t start = 0; start < bytes; start += BEFORE_OVERFLOW) {
        const int64_t stop = std::min(bytes, start + BEFORE_OVERFLOW);
        __m256i sums[TOGETHER][REGISTERS];
        for (int i = 0; i < TOGETHER; ++i)
            for (int part = 0; part < REGISTERS; ++part) sums[i][part] = _mm256_setzero_si256();
        for (int64_t byte = start; byte < stop; ++byte) {
            __m256i low[REGISTERS], high[REGISTERS];
            for (int part = 0; part < REGISTERS; ++part) {
                const auto* place = reinterpret_cast<const __m256i*>(block + byte * LANES) + part;
                const __m256i held = _mm256_loadu_si256(place);
                low[part] = _mm256_and_si256(held, half);
                high[part] = _mm256_and_si256(_mm256_srli_epi16(held, 4), half);
            }
            for (int i = 0; i < TOGETHER; ++i) {
                const auto* table = reinterpret_cast<const __m128i*>(DIFFERENCES.of[rows[i * bytes + byte]]);
                const __m256i to_low = _mm256_broadcastsi128_si256(_mm_load_si128(table));
                const __m256i to_high = _mm256_broadcastsi128_si256(_mm_load_si128(table + 1));
                for (int part = 0; part < REGISTERS; ++part) {
                    const __m256i found = _mm256_add_epi8(
                        _mm256_shuffle_epi8(to_low, low[part]), _mm256_shuffle_epi8(to_high, high[part]));
                    sums[i][part] = _mm256_add_epi8(sums[i][part], found);
                }
            }
        }
        for (int i = 0; i < TOGETHER; ++i) {
            alignas(32) uint8_t found[LANES];
            std::memcpy(found, sums[i], LANES);
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
    int64_t unit;  // bytes of one filter that lie side by side; those of the other lanes follow
    Count count;
};

// What this processor runs, the fastest first.
inline std::vector<Level> levels() {
    std::vector<Level> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vpopcntdq")) found.push_back({"avx512_vpopcntdq", WORD, count_avx512});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", 1, count_avx2});
#endif
    found.push_back({"portable", WORD, count_portable});
    return found;
}

// Filters as a level reads them, made once from `[filters, taps, tap bytes]`.
struct Filters {
    Count count;
    std::vector<uint8_t> bits;  // [blocks, words, lanes], each word of a lane in whole or byte by byte
    std::vector<int32_t> ones;  // [taps, blocks * lanes]: bits set, what a tap outside the image would count

    Filters(const uint8_t* packed, const Shape& shape, const Level& level)
        : count(level.count),
          bits(shape.blocks() * shape.block_bytes()),
          ones(shape.taps() * shape.blocks() * LANES) {
        const int64_t tap_bytes = shape.tap_bytes(), row = shape.taps() * tap_bytes;
        for (int64_t o = 0; o < shape.filters; ++o) {
            uint8_t* block = bits.data() + o / LANES * shape.block_bytes();
            const int64_t lane = o % LANES;
            for (int64_t byte = 0; byte < row; ++byte) {
                const uint8_t value = packed[o * row + byte];
                block[(byte / level.unit * LANES + lane) * level.unit + byte % level.unit] = value;
                ones[byte / tap_bytes * shape.blocks() * LANES + o] += __builtin_popcount(value);
            }
        }
    }
};

// What a layer computes with: factor and bias are [filters].
struct Layer {
    const Shape& shape;
    const Filters& filters;
    const float* threshold;  // [channels]
    const float* factor;
    const float* bias;

    int64_t stop(int64_t block) const { return std::min(shape.filters, (block + 1) * LANES); }
};

// Rows of bits, and in how many each differs from a block of filters.
struct Rows {
    const Layer& layer;
    int64_t count = 0;
    std::vector<uint64_t> bits = std::vector<uint64_t>(TILE * layer.shape.words());
    std::vector<int32_t> differing = std::vector<int32_t>(TILE * LANES);

    explicit Rows(const Layer& layer) : layer(layer) {}

    uint8_t* operator[](int64_t i) { return reinterpret_cast<uint8_t*>(bits.data() + i * layer.shape.words()); }

    void clear(int64_t wanted) {
        count = wanted;
        std::fill(bits.begin(), bits.end(), 0);
    }

    void compare(int64_t block) {
        const uint8_t* held = layer.filters.bits.data() + block * layer.shape.block_bytes();
        layer.filters.count(bits.data(), held, layer.shape.words(), count, differing.data());
    }
};

// Outputs of a convolution that follow each other, of one image or of several.
class Convolved {
public:
    Convolved(const Layer& layer, const uint8_t* bits, float* out)
        : layer_(layer), rows_(layer), bits_(bits), out_(out) {}

    // Collects the bits under each output; the rest of the last word stays zero, in the filters too.
    void gather(int64_t first, int64_t last) {
        const Shape& shape = layer_.shape;
        const int64_t plane = shape.out_height * shape.out_width, tap_bytes = shape.tap_bytes();
        rows_.clear(last - first);
        outside_.clear();
        for (int64_t i = 0; i < rows_.count; ++i) {
            const int64_t image = (first + i) / plane, pixel = (first + i) % plane;
            const int64_t top = pixel / shape.out_width * shape.stride_height - shape.pad_top;
            const int64_t left = pixel % shape.out_width * shape.stride_width - shape.pad_left;
            const size_t before = outside_.size();
            for (int64_t ky = 0; ky < shape.kernel_height; ++ky) {
                const int64_t y = top + ky * shape.dilation_height;
                for (int64_t kx = 0, run; kx < shape.kernel_width; kx += run) {
                    const int64_t x = left + kx * shape.dilation_width, tap = ky * shape.kernel_width + kx;
                    run = 1;
                    if (y < 0 || y >= shape.height || x < 0 || x >= shape.width) {
                        outside_.push_back({i, tap});
                        continue;
                    }
                    if (shape.dilation_width == 1) run = std::min(shape.kernel_width - kx, shape.width - x);
                    const int64_t from = (image * shape.height + y) * shape.width + x;
                    std::memcpy(rows_[i] + tap * tap_bytes, bits_ + from * tap_bytes, run * tap_bytes);
                }
            }
            place_[i] = image * shape.filters * plane + pixel;
            const auto inside = shape.taps() - static_cast<int64_t>(outside_.size() - before);
            inside_[i] = static_cast<int32_t>(inside * shape.channels);
        }
    }

    void compute(int64_t block) {
        const Shape& shape = layer_.shape;
        const int64_t plane = shape.out_height * shape.out_width;
        rows_.compare(block);
        for (const auto& [i, tap] : outside_) {
            const int32_t* ones = layer_.filters.ones.data() + (tap * shape.blocks() + block) * LANES;
            for (int64_t lane = 0; lane < LANES; ++lane) rows_.differing[i * LANES + lane] -= ones[lane];
        }
        for (int64_t o = block * LANES; o < layer_.stop(block); ++o) {
            const int32_t* found = rows_.differing.data() + o % LANES;
            const float factor = layer_.factor[o], bias = layer_.bias[o];
            int32_t differing[TILE];
            float sums[TILE];
            for (int64_t i = 0; i < TILE; ++i) differing[i] = found[i * LANES];
            for (int64_t i = 0; i < TILE; ++i)
                sums[i] = static_cast<float>(inside_[i] - 2 * differing[i]) * factor + bias;
            float* to = out_ + o * plane;
            if (place_[rows_.count - 1] - place_[0] == rows_.count - 1)  // of one image
                std::memcpy(to + place_[0], sums, rows_.count * sizeof(float));
            else
                for (int64_t i = 0; i < rows_.count; ++i) to[place_[i]] = sums[i];
        }
    }

private:
    struct Tap {
        int64_t output, tap;
    };

    const Layer& layer_;
    Rows rows_;
    const uint8_t* bits_;
    float* out_;
    std::vector<Tap> outside_;  // of the image
    int64_t place_[TILE] = {};
    int32_t inside_[TILE] = {};
};

// Outputs of a linear layer, row by row.
class Multiplied {
public:
    Multiplied(const Layer& layer, const float* x, float* out) : layer_(layer), rows_(layer), x_(x), out_(out) {}

    void gather(int64_t first, int64_t last) {
        const int64_t columns = layer_.shape.channels;
        rows_.clear(last - first);
        first_ = first;
        for (int64_t i = 0; i < rows_.count; ++i) {
            const float* from = x_ + (first + i) * columns;
            for (int64_t start = 0; start < columns; start += 8) {
                int packed = 0;
                for (int64_t bit = 0; bit < std::min<int64_t>(8, columns - start); ++bit)
                    packed |= (from[start + bit] >= layer_.threshold[start + bit]) << bit;
                rows_[i][start / 8] = static_cast<uint8_t>(packed);
            }
        }
    }

    void compute(int64_t block) {
        const auto columns = static_cast<int32_t>(layer_.shape.channels);
        const int64_t begin = block * LANES, lanes = layer_.stop(block) - begin;
        rows_.compare(block);
        for (int64_t i = 0; i < rows_.count; ++i) {
            const int32_t* found = rows_.differing.data() + i * LANES;
            float* to = out_ + (first_ + i) * layer_.shape.filters + begin;
            for (int64_t lane = 0; lane < lanes; ++lane)
                to[lane] = static_cast<float>(columns - 2 * found[lane]) * layer_.factor[begin + lane] +
                           layer_.bias[begin + lane];
        }
    }

private:
    const Layer& layer_;
    Rows rows_;
    const float* x_;
    float* out_;
    int64_t first_ = 0;
};

// Splits outputs into tiles and, where there are few as in a linear layer, filters into parts.
template <class Some>
void compute_all(const Some& some, const Shape& shape, int64_t outputs, const Parallel& parallel) {
    const int64_t tiles = (outputs + TILE - 1) / TILE, blocks = shape.blocks();
    const int64_t parts = std::min(blocks, std::max<int64_t>(1, PIECES / std::max<int64_t>(tiles, 1)));
    parallel(tiles * parts, [&](int64_t start, int64_t stop) {
        Some mine = some;
        int64_t gathered = -1;
        for (int64_t i = start; i < stop; ++i) {
            const int64_t tile = i / parts, part = i % parts;
            if (tile != gathered) mine.gather(tile * TILE, std::min(outputs, (tile + 1) * TILE));
            gathered = tile;
            for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block)
                mine.compute(block);
        }
    });
}

inline Parallel threads_for(int64_t outputs, const Shape& shape, const Parallel& threads) {
    if (outputs * shape.filters * shape.words() >= LEAST_WORK) return threads;
    return [](int64_t count, const Range& work) { work(0, count); };
}

// Eight channels of an image to a byte a pixel.
inline void pack_channels(
    const float* image, const float* threshold, const Shape& shape, int64_t byte, uint8_t* bits) {
    constexpr int64_t TOGETHER = 256;
    const int64_t pixels = shape.height * shape.width, tap_bytes = shape.tap_bytes();
    const int64_t channels = std::min<int64_t>(8, shape.channels - 8 * byte);
    for (int64_t start = 0; start < pixels; start += TOGETHER) {
        const int64_t some = std::min(TOGETHER, pixels - start);
        int32_t packed[TOGETHER] = {};  // as wide as what is compared, which compilers make vectors of
        for (int64_t bit = 0; bit < channels; ++bit) {
            const float* plane = image + (8 * byte + bit) * pixels + start;
            const float least = threshold[8 * byte + bit];
            const int32_t set = 1 << bit;
            for (int64_t i = 0; i < some; ++i) packed[i] |= plane[i] >= least ? set : 0;
        }
        for (int64_t i = 0; i < some; ++i) bits[(start + i) * tap_bytes + byte] = static_cast<uint8_t>(packed[i]);
    }
}

// out[n, o] = factor[o] * (signs of x[n] convolved with the signs of filter o) + bias[o].
//
// x: [batch, channels, height, width].
inline void convolve_signs(const Layer& layer, const float* x, int64_t batch, const Parallel& threads, float* out) {
    const Shape& shape = layer.shape;
    const int64_t pixels = shape.height * shape.width, tap_bytes = shape.tap_bytes();
    const int64_t outputs = batch * shape.out_height * shape.out_width;
    const Parallel parallel = threads_for(outputs, shape, threads);
    std::vector<uint8_t> bits(batch * pixels * tap_bytes);
    parallel(batch * tap_bytes, [&](int64_t start, int64_t stop) {
        for (int64_t i = start; i < stop; ++i) {
            const int64_t image = i / tap_bytes;
            pack_channels(
                x + image * shape.channels * pixels, layer.threshold, shape, i % tap_bytes,
                bits.data() + image * pixels * tap_bytes);
        }
    });
    compute_all(Convolved(layer, bits.data(), out), shape, outputs, parallel);
}

// out[n, o] = factor[o] * (signs of x[n] times the signs of filter o) + bias[o].
//
// x: [rows, channels].
inline void multiply_signs(const Layer& layer, const float* x, int64_t rows, const Parallel& threads, float* out) {
    compute_all(Multiplied(layer, x, out), layer.shape, rows, threads_for(rows, layer.shape, threads));
}

}  // namespace leanly
