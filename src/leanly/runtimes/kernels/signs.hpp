// Products of signs with signs, in convolutions and linear layers: xor, and a count of the bits that differ (Rastegari
// et al. 2016, "XNOR-Net").
//
// A bit a value, plus as 1; the channels of one tap lie side by side in whole bytes, the taps of one output behind each
// other in whole 64-bit words. A block of filters is counted at once, a lane each, so that no lane is summed up. Images
// have their channels last: what belongs together is read and written side by side. What lies outside of them counts as
// zero, as it does in every other convolution: its taps are given zero bits, and what the weights alone then count there
// is taken off again.
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

// Adds 16 counts to sums of four bytes.
__attribute__((target("avx2"))) inline void add_counts(__m256i counts, int32_t* sums) {
    auto* at = reinterpret_cast<__m256i*>(sums);
    const __m256i first = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(counts));
    const __m256i second = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(counts, 1));
    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), first));
    _mm256_storeu_si256(at + 1, _mm256_add_epi32(_mm256_loadu_si256(at + 1), second));
}

// Instead of counting bits, four at a time are looked up for all lanes by one shuffle: the row's bits choose the table,
// the filters' bits the place in it (as T-MAC does for weights of few bits, Wei et al. 2024). Counts are kept in one
// byte, then in two, then in four, as long as each is sure to hold them.
template <int TOGETHER>
__attribute__((target("avx2"))) inline void count_rows_avx2(
    const uint8_t* rows, const uint8_t* block, int64_t bytes, int32_t* differing) {
    constexpr int64_t IN_ONE = 255 / 8, IN_TWO = 65535 / 8 / IN_ONE * IN_ONE;  // bytes of a row; each adds eight at most
    constexpr int REGISTERS = LANES / 32;
    const __m256i half = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    std::fill(differing, differing + TOGETHER * LANES, 0);
    for (int64_t begin = 0; begin < bytes; begin += IN_TWO) {
        const int64_t end = std::min(bytes, begin + IN_TWO);
        __m256i wide[TOGETHER][REGISTERS][2] = {};  // each register's low and high halves of 128 bits, in turns
        for (int64_t start = begin; start < end; start += IN_ONE) {
            const int64_t stop = std::min(end, start + IN_ONE);
            __m256i sums[TOGETHER][REGISTERS] = {};
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
                        __m256i& sum = sums[i][part];
                        sum = _mm256_add_epi8(sum, _mm256_shuffle_epi8(to_low, low[part]));
                        sum = _mm256_add_epi8(sum, _mm256_shuffle_epi8(to_high, high[part]));
                    }
                }
            }
            for (int i = 0; i < TOGETHER; ++i)
                for (int part = 0; part < REGISTERS; ++part) {
                    __m256i* to = wide[i][part];
                    to[0] = _mm256_add_epi16(to[0], _mm256_unpacklo_epi8(sums[i][part], zero));
                    to[1] = _mm256_add_epi16(to[1], _mm256_unpackhi_epi8(sums[i][part], zero));
                }
        }
        for (int i = 0; i < TOGETHER; ++i)
            for (int part = 0; part < REGISTERS; ++part) {
                const __m256i* from = wide[i][part];
                int32_t* to = differing + i * LANES + part * 32;
                add_counts(_mm256_permute2x128_si256(from[0], from[1], 0x20), to);
                add_counts(_mm256_permute2x128_si256(from[0], from[1], 0x31), to + 16);
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

// Packs values side by side, eight to a byte: one that reaches its threshold is plus.
using Pack = void (*)(const float* values, const float* threshold, int64_t count, uint8_t* packed);

inline void pack_portable(const float* values, const float* threshold, int64_t count, uint8_t* packed) {
    for (int64_t start = 0; start < count; start += 8) {
        int byte = 0;
        for (int64_t bit = 0; bit < std::min<int64_t>(8, count - start); ++bit)
            byte |= (values[start + bit] >= threshold[start + bit]) << bit;
        packed[start / 8] = static_cast<uint8_t>(byte);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) inline void pack_avx2(
    const float* values, const float* threshold, int64_t count, uint8_t* packed) {
    int64_t start = 0;
    for (; start + 8 <= count; start += 8) {
        const __m256 least = _mm256_loadu_ps(threshold + start);
        const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(values + start), least, _CMP_GE_OQ);
        packed[start / 8] = static_cast<uint8_t>(_mm256_movemask_ps(above));
    }
    pack_portable(values + start, threshold + start, count - start, packed + start / 8);
}
#endif

struct Level {
    const char* name;
    int64_t unit;  // bytes of one filter that lie side by side; those of the other lanes follow
    Count count;
    Pack pack;
};

// What this processor runs, the fastest first.
inline std::vector<Level> levels() {
    std::vector<Level> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vpopcntdq")) found.push_back({"avx512_vpopcntdq", WORD, count_avx512, pack_avx2});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", 1, count_avx2, pack_avx2});
#endif
    found.push_back({"portable", WORD, count_portable, pack_portable});
    return found;
}

// Filters as a level reads them, made once from `[filters, taps, tap bytes]`.
struct Filters {
    Level level;
    std::vector<uint8_t> bits;  // [blocks, words, lanes], each word of a lane in whole or byte by byte
    std::vector<int32_t> ones;  // [taps, blocks * lanes]: bits set, what a tap outside the image would count

    Filters(const uint8_t* packed, const Shape& shape, const Level& level)
        : level(level),
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

    int64_t lanes(int64_t block) const { return std::min(LANES, shape.filters - block * LANES); }
};

// Rows of bits under outputs that follow each other, and what becomes of them by a block of filters.
struct Rows {
    const Layer& layer;
    int64_t first = 0, count = 0;
    std::vector<uint64_t> bits = std::vector<uint64_t>(TILE * layer.shape.words());
    std::vector<int32_t> differing = std::vector<int32_t>(TILE * LANES);
    int32_t compared[TILE] = {};  // products under each output

    explicit Rows(const Layer& layer) : layer(layer) {}

    uint8_t* operator[](int64_t i) { return reinterpret_cast<uint8_t*>(bits.data() + i * layer.shape.words()); }

    void clear(int64_t begin, int64_t end) {
        first = begin;
        count = end - begin;
        std::fill(bits.begin(), bits.end(), 0);
    }

    void compare(int64_t block) {
        const uint8_t* held = layer.filters.bits.data() + block * layer.shape.block_bytes();
        layer.filters.level.count(bits.data(), held, layer.shape.words(), count, differing.data());
    }

    // What layers give for a block: `to[output * stride + lane]`.
    void write(int64_t block, float* to, int64_t stride) const {
        const int64_t begin = block * LANES, lanes = layer.lanes(block);
        const float *factor = layer.factor + begin, *bias = layer.bias + begin;
        for (int64_t i = 0; i < count; ++i, to += stride) {
            const int32_t* found = differing.data() + i * LANES;
            for (int64_t lane = 0; lane < lanes; ++lane)
                to[lane] = static_cast<float>(compared[i] - 2 * found[lane]) * factor[lane] + bias[lane];
        }
    }
};

// Outputs of a convolution, of one image or of several.
class Convolved {
public:
    Convolved(const Layer& layer, const uint8_t* bits, bool channels_last, float* out)
        : layer_(layer), rows_(layer), bits_(bits), channels_last_(channels_last), out_(out) {}

    // Collects the bits under each output; the rest of the last word stays zero, in the filters too.
    void gather(int64_t first, int64_t last) {
        const Shape shape = layer_.shape;  // of its own: bytes that are written could lie in another's
        const int64_t tap_bytes = shape.tap_bytes(), plane = shape.out_height * shape.out_width;
        int64_t image = first / plane, row = first % plane / shape.out_width, column = first % shape.out_width;
        rows_.clear(first, last);
        outside_.clear();
        for (int64_t i = 0; i < last - first; ++i) {
            const int64_t top = row * shape.stride_height - shape.pad_top;
            const int64_t left = column * shape.stride_width - shape.pad_left;
            const size_t before = outside_.size();
            uint8_t* to = rows_[i];
            for (int64_t ky = 0; ky < shape.kernel_height; ++ky) {
                const int64_t y = top + ky * shape.dilation_height;
                const uint8_t* line = bits_ + (image * shape.height + y) * shape.width * tap_bytes;
                for (int64_t kx = 0, run; kx < shape.kernel_width; kx += run, to += run * tap_bytes) {
                    const int64_t x = left + kx * shape.dilation_width;
                    run = 1;
                    if (y < 0 || y >= shape.height || x < 0 || x >= shape.width) {
                        outside_.push_back({i, ky * shape.kernel_width + kx});
                        continue;
                    }
                    if (shape.dilation_width == 1) run = std::min(shape.kernel_width - kx, shape.width - x);
                    std::memcpy(to, line + x * tap_bytes, run * tap_bytes);
                }
            }
            const auto inside = shape.taps() - static_cast<int64_t>(outside_.size() - before);
            rows_.compared[i] = static_cast<int32_t>(inside * shape.channels);
            place_[i] = image * shape.filters * plane + row * shape.out_width + column;
            if (++column == shape.out_width) column = 0, ++row;
            if (row == shape.out_height) row = 0, ++image;
        }
    }

    void compute(int64_t block) {
        rows_.compare(block);
        for (const auto& [i, tap] : outside_) {
            const int32_t* ones = layer_.filters.ones.data() + (tap * layer_.shape.blocks() + block) * LANES;
            for (int64_t lane = 0; lane < LANES; ++lane) rows_.differing[i * LANES + lane] -= ones[lane];
        }
        const int64_t filters = layer_.shape.filters;
        if (channels_last_)
            rows_.write(block, out_ + rows_.first * filters + block * LANES, filters);
        else
            write_planes(block);
    }

private:
    struct Tap {
        int64_t output, tap;
    };

    void write_planes(int64_t block) {
        const int64_t plane = layer_.shape.out_height * layer_.shape.out_width;
        float found[TILE * LANES];
        rows_.write(block, found, LANES);
        for (int64_t lane = 0; lane < layer_.lanes(block); ++lane)
            for (int64_t i = 0; i < rows_.count; ++i)
                out_[place_[i] + (block * LANES + lane) * plane] = found[i * LANES + lane];
    }

    const Layer& layer_;
    Rows rows_;
    const uint8_t* bits_;
    bool channels_last_;
    float* out_;
    std::vector<Tap> outside_;  // of the image
    int64_t place_[TILE] = {};  // in the planes of its image
};

// Outputs of a linear layer, row by row.
class Multiplied {
public:
    Multiplied(const Layer& layer, const float* x, float* out) : layer_(layer), rows_(layer), x_(x), out_(out) {}

    void gather(int64_t first, int64_t last) {
        const int64_t columns = layer_.shape.channels;
        rows_.clear(first, last);
        std::fill(rows_.compared, rows_.compared + rows_.count, static_cast<int32_t>(columns));
        for (int64_t i = 0; i < rows_.count; ++i)
            layer_.filters.level.pack(x_ + (first + i) * columns, layer_.threshold, columns, rows_[i]);
    }

    void compute(int64_t block) {
        const int64_t filters = layer_.shape.filters;
        rows_.compare(block);
        rows_.write(block, out_ + rows_.first * filters + block * LANES, filters);
    }

private:
    const Layer& layer_;
    Rows rows_;
    const float* x_;
    float* out_;
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

// Packs the channels of each pixel; those of planes are collected first, for some pixels together.
inline void pack_image(const Layer& layer, const float* image, bool channels_last, int64_t first, uint8_t* bits) {
    const int64_t channels = layer.shape.channels, plane = layer.shape.height * layer.shape.width;
    const int64_t count = std::min(TILE, plane - first);
    std::vector<float> collected(channels_last ? 0 : TILE * channels);
    for (int64_t channel = 0; !channels_last && channel < channels; ++channel)
        for (int64_t i = 0; i < count; ++i) collected[i * channels + channel] = image[channel * plane + first + i];
    const float* values = channels_last ? image + first * channels : collected.data();
    for (int64_t i = 0; i < count; ++i)
        layer.filters.level.pack(
            values + i * channels, layer.threshold, channels, bits + (first + i) * layer.shape.tap_bytes());
}

// out[n, y, x, o] = factor[o] * (signs of x[n] convolved with the signs of filter o) + bias[o].
//
// x: [batch, height, width, channels]; or [batch, channels, height, width], and the output likewise.
inline void convolve_signs(
    const Layer& layer, const float* x, int64_t batch, bool channels_last, const Parallel& threads, float* out) {
    const Shape& shape = layer.shape;
    const int64_t outputs = batch * shape.out_height * shape.out_width;
    const Parallel parallel = threads_for(outputs, shape, threads);
    const int64_t pixels = shape.height * shape.width, strips = (pixels + TILE - 1) / TILE;
    std::vector<uint8_t> bits(batch * pixels * shape.tap_bytes());
    parallel(batch * strips, [&](int64_t start, int64_t stop) {
        for (int64_t i = start; i < stop; ++i) {
            const int64_t before = i / strips * pixels;
            pack_image(
                layer, x + before * shape.channels, channels_last, i % strips * TILE,
                bits.data() + before * shape.tap_bytes());
        }
    });
    compute_all(Convolved(layer, bits.data(), channels_last, out), shape, outputs, parallel);
}

// out[n, o] = factor[o] * (signs of x[n] times the signs of filter o) + bias[o].
//
// x: [rows, channels].
inline void multiply_signs(const Layer& layer, const float* x, int64_t rows, const Parallel& threads, float* out) {
    compute_all(Multiplied(layer, x, out), layer.shape, rows, threads_for(rows, layer.shape, threads));
}

}  // namespace leanly
