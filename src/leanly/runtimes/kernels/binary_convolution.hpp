// Convolution of signs with signs: xor, and a count of the bits that differ (Rastegari et al. 2016, "XNOR-Net").
//
// A bit a value, plus as 1; the channels of one tap lie side by side in whole bytes, the taps of one output behind each
// other in whole 64-bit words. Eight filters are counted at once, a lane each, so that no lane is summed up. What lies
// outside the image counts as zero, as it does in every other convolution: its taps are given zero bits, and what the
// weights alone then count there is taken off again.
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

constexpr int64_t LANES = 8;
constexpr int64_t PIECES = 32;  // that work is split into, at least

struct Shape {
    int64_t channels, height, width;
    int64_t filters, kernel_height, kernel_width;
    int64_t stride_height, stride_width, pad_top, pad_left, dilation_height, dilation_width;
    int64_t out_height, out_width;

    int64_t taps() const { return kernel_height * kernel_width; }
    int64_t tap_bytes() const { return (channels + 7) / 8; }
    int64_t words() const { return (taps() * tap_bytes() + 7) / 8; }
    int64_t blocks() const { return (filters + LANES - 1) / LANES; }
};

// Work that may be split: from 0 to count, by a function of (start, stop).
using Range = std::function<void(int64_t, int64_t)>;
using Parallel = std::function<void(int64_t, const Range&)>;

// Counts differing bits of `pixels` rows of `words` words against eight filters: `differing[pixel * LANES + lane]`.
using Count = void (*)(const uint64_t* rows, const uint64_t* filters, int64_t words, int64_t pixels, int32_t* differing);

inline void count_portable(
    const uint64_t* rows, const uint64_t* filters, int64_t words, int64_t pixels, int32_t* differing) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        int32_t sums[LANES] = {};
        for (int64_t word = 0; word < words; ++word)
            for (int64_t lane = 0; lane < LANES; ++lane)
                sums[lane] += __builtin_popcountll(rows[pixel * words + word] ^ filters[word * LANES + lane]);
        std::memcpy(differing + pixel * LANES, sums, sizeof(sums));
    }
}

#if defined(__x86_64__)

// The same loop where the processor counts the bits of a word in one instruction.
__attribute__((target("popcnt"))) inline void count_popcnt(
    const uint64_t* rows, const uint64_t* filters, int64_t words, int64_t pixels, int32_t* differing) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        int64_t sums[LANES] = {};
        for (int64_t word = 0; word < words; ++word)
            for (int64_t lane = 0; lane < LANES; ++lane)
                sums[lane] += _mm_popcnt_u64(rows[pixel * words + word] ^ filters[word * LANES + lane]);
        for (int64_t lane = 0; lane < LANES; ++lane) differing[pixel * LANES + lane] = static_cast<int32_t>(sums[lane]);
    }
}

// Bits of each half byte are looked up; of eight words only what is left of their sum by carry-save adders (Muła et al.
// 2018, "Faster Population Counts Using AVX2 Instructions").
__attribute__((target("avx2"))) inline __m256i bits_of_bytes(__m256i value) {
    const __m256i table = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i lower = _mm256_shuffle_epi8(table, _mm256_and_si256(value, low));
    const __m256i upper = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(value, 4), low));
    return _mm256_add_epi8(lower, upper);
}

// What four filters and a row differ in, in one word.
__attribute__((target("avx2"))) inline __m256i differ(const uint64_t* row, const uint64_t* filters, int64_t word) {
    const auto* place = reinterpret_cast<const __m256i*>(filters + word * LANES);
    return _mm256_xor_si256(_mm256_set1_epi64x(static_cast<int64_t>(row[word])), _mm256_loadu_si256(place));
}

// Adds two values bit by bit to a sum, and returns the carries.
__attribute__((target("avx2"))) inline __m256i carry(__m256i& sum, __m256i a, __m256i b) {
    const __m256i either = _mm256_xor_si256(sum, a);
    const __m256i carried = _mm256_or_si256(_mm256_and_si256(sum, a), _mm256_and_si256(either, b));
    sum = _mm256_xor_si256(either, b);
    return carried;
}

__attribute__((target("avx2"))) inline __m256i count_four_filters(
    const uint64_t* row, const uint64_t* filters, int64_t words) {
    constexpr int64_t GROUP = 8, BEFORE_OVERFLOW = 31;  // a byte of a sum grows by 8 at most
    const __m256i zero = _mm256_setzero_si256();
    __m256i total = zero, bytes = zero;
    int64_t word = 0;
    if (words >= GROUP) {
        __m256i ones = zero, twos = zero, fours = zero;
        for (int64_t group = 1; word + GROUP <= words; word += GROUP, ++group) {
            __m256i two[4], four[2];
            for (int i = 0; i < 4; ++i)
                two[i] = carry(ones, differ(row, filters, word + 2 * i), differ(row, filters, word + 2 * i + 1));
            for (int i = 0; i < 2; ++i) four[i] = carry(twos, two[2 * i], two[2 * i + 1]);
            bytes = _mm256_add_epi8(bytes, bits_of_bytes(carry(fours, four[0], four[1])));
            if (group % BEFORE_OVERFLOW == 0) {
                total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes, zero));
                bytes = zero;
            }
        }
        total = _mm256_slli_epi64(_mm256_add_epi64(total, _mm256_sad_epu8(bytes, zero)), 3);
        total = _mm256_add_epi64(total, _mm256_slli_epi64(_mm256_sad_epu8(bits_of_bytes(fours), zero), 2));
        total = _mm256_add_epi64(total, _mm256_slli_epi64(_mm256_sad_epu8(bits_of_bytes(twos), zero), 1));
        bytes = bits_of_bytes(ones);
    }
    for (; word < words; ++word) bytes = _mm256_add_epi8(bytes, bits_of_bytes(differ(row, filters, word)));
    return _mm256_add_epi64(total, _mm256_sad_epu8(bytes, zero));
}

__attribute__((target("avx2"))) inline void count_avx2(
    const uint64_t* rows, const uint64_t* filters, int64_t words, int64_t pixels, int32_t* differing) {
    alignas(32) int64_t found[LANES];
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t half = 0; half < LANES; half += 4)
            _mm256_store_si256(
                reinterpret_cast<__m256i*>(found + half),
                count_four_filters(rows + pixel * words, filters + half, words));
        for (int64_t lane = 0; lane < LANES; ++lane) differing[pixel * LANES + lane] = static_cast<int32_t>(found[lane]);
    }
}

__attribute__((target("avx512f,avx512vpopcntdq"))) inline void count_avx512(
    const uint64_t* rows, const uint64_t* filters, int64_t words, int64_t pixels, int32_t* differing) {
    constexpr int64_t TOGETHER = 4;  // pixels that share a load of the filters
    for (int64_t pixel = 0; pixel < pixels; pixel += TOGETHER) {
        const int64_t some = std::min(TOGETHER, pixels - pixel);
        __m512i sums[TOGETHER] = {};
        const uint64_t* at[TOGETHER];
        for (int64_t i = 0; i < TOGETHER; ++i) at[i] = rows + (pixel + std::min(i, some - 1)) * words;
        for (int64_t word = 0; word < words; ++word) {
            const __m512i held = _mm512_loadu_si512(filters + word * LANES);
            for (int64_t i = 0; i < TOGETHER; ++i) {
                const __m512i differ = _mm512_xor_si512(held, _mm512_set1_epi64(static_cast<int64_t>(at[i][word])));
                sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(differ));
            }
        }
        for (int64_t i = 0; i < some; ++i)
            _mm256_storeu_si256(
                reinterpret_cast<__m256i*>(differing + (pixel + i) * LANES), _mm512_cvtepi64_epi32(sums[i]));
    }
}

#endif

struct Level {
    const char* name;
    Count count;
};

// What this processor runs, the fastest first.
inline std::vector<Level> levels() {
    std::vector<Level> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vpopcntdq")) found.push_back({"avx512_vpopcntdq", count_avx512});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", count_avx2});
    if (__builtin_cpu_supports("popcnt")) found.push_back({"popcnt", count_popcnt});
#endif
    found.push_back({"portable", count_portable});
    return found;
}

// Filters as the kernel reads them, made once from `[filters, taps, tap bytes]`.
struct Filters {
    std::vector<uint64_t> words;  // [blocks, words, lanes]
    std::vector<int32_t> ones;    // [taps, blocks * lanes]: bits set, what a tap outside the image would count

    Filters(const uint8_t* packed, const Shape& shape)
        : words(shape.blocks() * shape.words() * LANES), ones(shape.taps() * shape.blocks() * LANES) {
        const int64_t tap_bytes = shape.tap_bytes(), row = shape.taps() * tap_bytes;
        std::vector<uint64_t> filter(shape.words());
        for (int64_t o = 0; o < shape.filters; ++o) {
            std::fill(filter.begin(), filter.end(), 0);
            std::memcpy(filter.data(), packed + o * row, row);
            for (int64_t word = 0; word < shape.words(); ++word)
                words[((o / LANES) * shape.words() + word) * LANES + o % LANES] = filter[word];
            for (int64_t tap = 0; tap < shape.taps(); ++tap)
                for (int64_t byte = 0; byte < tap_bytes; ++byte)
                    ones[tap * shape.blocks() * LANES + o] +=
                        __builtin_popcount(packed[o * row + tap * tap_bytes + byte]);
        }
    }
};

// Eight channels of an image to a byte a pixel.
inline void pack_channels(
    const float* image, const float* threshold, const Shape& shape, int64_t byte, std::vector<uint8_t>& scratch,
    uint8_t* bits) {
    const int64_t pixels = shape.height * shape.width, tap_bytes = shape.tap_bytes();
    scratch.assign(pixels, 0);
    const int64_t stop = std::min<int64_t>(8, shape.channels - 8 * byte);
    for (int64_t bit = 0; bit < stop; ++bit) {
        const float* plane = image + (8 * byte + bit) * pixels;
        const float least = threshold[8 * byte + bit];
        const uint8_t set = static_cast<uint8_t>(1 << bit);
        uint8_t* packed = scratch.data();
        for (int64_t pixel = 0; pixel < pixels; ++pixel) packed[pixel] |= plane[pixel] >= least ? set : 0;
    }
    for (int64_t pixel = 0; pixel < pixels; ++pixel) bits[pixel * tap_bytes + byte] = scratch[pixel];
}

// One row of outputs of one image, or a part of its filters.
class OutputRow {
public:
    OutputRow(const Shape& shape, const Filters& filters, Count count)
        : shape_(shape),
          filters_(filters),
          count_(count),
          rows_(shape.out_width * shape.words()),
          inside_(shape.out_width),
          differing_(shape.out_width * LANES) {}

    void operator()(
        const uint8_t* bits, int64_t y, int64_t first, int64_t last, const float* factor, const float* bias,
        float* out) {
        if (bits != gathered_ || y != row_) gather(bits, y);
        const int64_t width = shape_.out_width, plane = shape_.out_height * width;
        for (int64_t block = first; block < last; ++block) {
            const uint64_t* filters = filters_.words.data() + block * shape_.words() * LANES;
            count_(rows_.data(), filters, shape_.words(), width, differing_.data());
            const int64_t lanes = std::min(LANES, shape_.filters - block * LANES);
            for (int64_t x : cut_) take_off(block, y, x);
            for (int64_t lane = 0; lane < lanes; ++lane) {
                const int64_t o = block * LANES + lane;
                float* line = out + o * plane + y * width;
                for (int64_t x = 0; x < width; ++x)
                    line[x] = static_cast<float>(inside_[x] - 2 * differing_[x * LANES + lane]) * factor[o] + bias[o];
            }
        }
    }

private:
    // Collects the bits under each output; the rest of the last word stays zero, in the filters too.
    void gather(const uint8_t* bits, int64_t y) {
        const int64_t tap_bytes = shape_.tap_bytes();
        gathered_ = bits;
        row_ = y;
        std::fill(rows_.begin(), rows_.end(), 0);
        cut_.clear();
        for (int64_t x = 0; x < shape_.out_width; ++x) {
            auto* row = reinterpret_cast<uint8_t*>(rows_.data() + x * shape_.words());
            int64_t taps = 0;
            for (int64_t ky = 0; ky < shape_.kernel_height; ++ky) {
                for (int64_t kx = 0; kx < shape_.kernel_width; ++kx) {
                    int64_t from_y, from_x;
                    if (!is_inside(y, x, ky, kx, from_y, from_x)) continue;
                    const uint8_t* from = bits + (from_y * shape_.width + from_x) * tap_bytes;
                    std::memcpy(row + (ky * shape_.kernel_width + kx) * tap_bytes, from, tap_bytes);
                    ++taps;
                }
            }
            inside_[x] = static_cast<int32_t>(taps * shape_.channels);
            if (taps < shape_.taps()) cut_.push_back(x);
        }
    }

    bool is_inside(int64_t y, int64_t x, int64_t ky, int64_t kx, int64_t& from_y, int64_t& from_x) const {
        from_y = y * shape_.stride_height - shape_.pad_top + ky * shape_.dilation_height;
        from_x = x * shape_.stride_width - shape_.pad_left + kx * shape_.dilation_width;
        return from_y >= 0 && from_y < shape_.height && from_x >= 0 && from_x < shape_.width;
    }

    void take_off(int64_t block, int64_t y, int64_t x) {
        int64_t from_y, from_x;
        for (int64_t ky = 0; ky < shape_.kernel_height; ++ky)
            for (int64_t kx = 0; kx < shape_.kernel_width; ++kx)
                if (!is_inside(y, x, ky, kx, from_y, from_x)) {
                    const int64_t tap = ky * shape_.kernel_width + kx;
                    const int32_t* ones = filters_.ones.data() + (tap * shape_.blocks() + block) * LANES;
                    for (int64_t lane = 0; lane < LANES; ++lane) differing_[x * LANES + lane] -= ones[lane];
                }
    }

    const Shape& shape_;
    const Filters& filters_;
    Count count_;
    std::vector<uint64_t> rows_;
    std::vector<int32_t> inside_, differing_;
    std::vector<int64_t> cut_;
    const uint8_t* gathered_ = nullptr;
    int64_t row_ = -1;
};

// out[n, o] = factor[o] * (signs of x[n] convolved with the signs of filter o) + bias[o].
//
// x: [batch, channels, height, width]; threshold: [channels]; factor, bias: [filters].
inline void convolve_signs(
    const float* x, const float* threshold, const Filters& filters, const float* factor, const float* bias,
    const Shape& shape, int64_t batch, Count count, const Parallel& parallel, float* out) {
    const int64_t pixels = shape.height * shape.width, tap_bytes = shape.tap_bytes();
    std::vector<uint8_t> bits(batch * pixels * tap_bytes);
    parallel(batch * tap_bytes, [&](int64_t start, int64_t stop) {
        std::vector<uint8_t> scratch;
        for (int64_t i = start; i < stop; ++i) {
            const int64_t image = i / tap_bytes;
            pack_channels(
                x + image * shape.channels * pixels, threshold, shape, i % tap_bytes, scratch,
                bits.data() + image * pixels * tap_bytes);
        }
    });
    // where there are few rows, as in a linear layer, threads share out the filters
    const int64_t rows = batch * shape.out_height, blocks = shape.blocks();
    const int64_t parts = std::min(blocks, std::max<int64_t>(1, PIECES / std::max<int64_t>(rows, 1)));
    parallel(rows * parts, [&](int64_t start, int64_t stop) {
        OutputRow row(shape, filters, count);
        for (int64_t i = start; i < stop; ++i) {
            const int64_t image = i / parts / shape.out_height, part = i % parts;
            row(bits.data() + image * pixels * tap_bytes, i / parts % shape.out_height, part * blocks / parts,
                (part + 1) * blocks / parts, factor, bias,
                out + image * shape.filters * shape.out_height * shape.out_width);
        }
    });
}

}  // namespace leanly
