// The kernel of signs as operations that OpenVINO runs inside its own threads.
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>
#include <tbb/parallel_for.h>

#include "signs.hpp"

namespace leanly {

using Numbers = std::vector<int64_t>;

// Inputs of both operations.
enum Input : size_t { X, THRESHOLD, FILTERS, FACTOR, BIAS };

inline void in_threads(int64_t count, const Range& work) {
    tbb::parallel_for(tbb::blocked_range<int64_t>(0, count), [&](const tbb::blocked_range<int64_t>& range) {
        work(range.begin(), range.end());
    });
}

// Filters as the kernel reads them, made at the first call: every input but the first is a constant.
class Prepared {
public:
    const Filters& of(const ov::Tensor& packed, const Shape& shape) {
        std::call_once(
            once_, [&] { filters_ = std::make_unique<Filters>(packed.data<uint8_t>(), shape, levels().front()); });
        return *filters_;
    }

private:
    std::once_flag once_;
    std::unique_ptr<Filters> filters_;
};

inline Layer layer_of(const ov::TensorVector& inputs, const Shape& shape, Prepared& prepared) {
    return {shape, prepared.of(inputs[FILTERS], shape), inputs[THRESHOLD].data<float>(), inputs[FACTOR].data<float>(),
            inputs[BIAS].data<float>()};
}

// Images have their channels first, as in ONNX, unless the attribute says that they come last.
class BinaryConvolution : public ov::op::Op {
public:
    OPENVINO_OP("BinaryConvolution", "leanly")

    BinaryConvolution() = default;
    BinaryConvolution(
        const ov::OutputVector& inputs, Numbers kernel, Numbers strides, Numbers pads, Numbers dilations,
        bool channels_last = false)
        : Op(inputs),
          kernel_(kernel),
          strides_(strides),
          pads_(pads),
          dilations_(dilations),
          channels_last_(channels_last) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto given = get_input_partial_shape(X);
        ov::PartialShape shape = ov::PartialShape::dynamic(4);
        const auto filters = get_input_partial_shape(FILTERS);
        if (filters.rank().is_static()) shape[channel()] = filters[0];
        if (given.rank().is_static()) {
            shape[0] = given[0];
            for (int side = 0; side < 2; ++side) {
                const auto size = given[height() + side];
                if (size.is_static()) shape[height() + side] = out_size(size.get_length(), side);
            }
        }
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<BinaryConvolution>(inputs, kernel_, strides_, pads_, dilations_, channels_last_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("kernel_shape", kernel_);
        visitor.on_attribute("strides", strides_);
        visitor.on_attribute("pads", pads_);
        visitor.on_attribute("dilations", dilations_);
        visitor.on_attribute("channels_last", channels_last_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const auto given = inputs[X].get_shape();
        const Shape shape{
            static_cast<int64_t>(given[channel()]), static_cast<int64_t>(given[height()]),
            static_cast<int64_t>(given[height() + 1]), static_cast<int64_t>(inputs[FILTERS].get_shape()[0]), kernel_[0],
            kernel_[1], strides_[0], strides_[1], pads_[0], pads_[1], dilations_[0], dilations_[1],
            out_size(given[height()], 0), out_size(given[height() + 1], 1)};
        ov::Shape made(4);
        made[0] = given[0];
        made[channel()] = static_cast<size_t>(shape.filters);
        made[height()] = static_cast<size_t>(shape.out_height);
        made[height() + 1] = static_cast<size_t>(shape.out_width);
        outputs[0].set_shape(made);
        convolve_signs(
            layer_of(inputs, shape, prepared_), inputs[X].data<float>(), static_cast<int64_t>(given[0]), channels_last_,
            in_threads, outputs[0].data<float>());
        return true;
    }

private:
    int channel() const { return channels_last_ ? 3 : 1; }
    int height() const { return channels_last_ ? 1 : 2; }

    int64_t out_size(int64_t size, int side) const {
        const int64_t reach = dilations_[side] * (kernel_[side] - 1) + 1;
        return (size + pads_[side] + pads_[2 + side] - reach) / strides_[side] + 1;
    }

    Numbers kernel_, strides_, pads_, dilations_;
    bool channels_last_ = false;
    mutable Prepared prepared_;
};

class BinaryLinear : public ov::op::Op {
public:
    OPENVINO_OP("BinaryLinear", "leanly")

    BinaryLinear() = default;
    explicit BinaryLinear(const ov::OutputVector& inputs) : Op(inputs) { constructor_validate_and_infer_types(); }

    void validate_and_infer_types() override {
        auto shape = get_input_partial_shape(X);
        const auto filters = get_input_partial_shape(FILTERS);
        if (shape.rank().is_static())
            shape[shape.size() - 1] = filters.rank().is_static() ? filters[0] : ov::Dimension::dynamic();
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<BinaryLinear>(inputs);
    }

    bool visit_attributes(ov::AttributeVisitor&) override { return true; }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        auto sizes = inputs[X].get_shape();
        const auto rows = static_cast<int64_t>(inputs[X].get_size() / sizes.back());
        const auto shape = Shape::of_rows(
            static_cast<int64_t>(sizes.back()), static_cast<int64_t>(inputs[FILTERS].get_shape()[0]));
        sizes.back() = static_cast<size_t>(shape.filters);
        outputs[0].set_shape(sizes);
        multiply_signs(
            layer_of(inputs, shape, prepared_), inputs[X].data<float>(), rows, in_threads, outputs[0].data<float>());
        return true;
    }

private:
    mutable Prepared prepared_;
};

}  // namespace leanly

static ov::OutputVector inputs_of(const ov::frontend::NodeContext& node) {
    ov::OutputVector inputs;
    for (size_t i = 0; i < node.get_input_size(); ++i) inputs.push_back(node.get_input(static_cast<int>(i)));
    return inputs;
}

static ov::OutputVector read_convolution(const ov::frontend::NodeContext& node) {
    const auto numbers = [&](const char* name) { return node.get_attribute<leanly::Numbers>(name); };
    return std::make_shared<leanly::BinaryConvolution>(
               inputs_of(node), numbers("kernel_shape"), numbers("strides"), numbers("pads"), numbers("dilations"))
        ->outputs();
}

static ov::OutputVector read_linear(const ov::frontend::NodeContext& node) {
    return std::make_shared<leanly::BinaryLinear>(inputs_of(node))->outputs();
}

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<leanly::BinaryConvolution>>(),
    std::make_shared<ov::OpExtension<leanly::BinaryLinear>>(),
    std::make_shared<ov::frontend::onnx::ConversionExtension>("BinaryConvolution", "leanly", read_convolution),
    std::make_shared<ov::frontend::onnx::ConversionExtension>("BinaryLinear", "leanly", read_linear),
}))

// For tests and for timing: one layer in one thread by a level of `levels()`; what the processor lacks is -1. A shape
// without an output height is a linear layer's, of `batch` rows.
extern "C" __attribute__((visibility("default"))) int leanly_signs(
    const char* level, const float* x, const float* threshold, const uint8_t* packed, const float* factor,
    const float* bias, const int64_t* sizes, int64_t batch, int channels_last, float* out) {
    leanly::Shape shape;
    static_assert(sizeof(shape) == 14 * sizeof(int64_t), "a shape is whole numbers");
    std::memcpy(&shape, sizes, sizeof(shape));
    const leanly::Parallel alone = [](int64_t count, const leanly::Range& work) { work(0, count); };
    for (const auto& found : leanly::levels()) {
        if (std::string(found.name) != level) continue;
        const bool rows = shape.out_height == 0;
        if (rows) shape = leanly::Shape::of_rows(shape.channels, shape.filters);
        const leanly::Filters filters(packed, shape, found);
        const leanly::Layer layer{shape, filters, threshold, factor, bias};
        if (rows)
            leanly::multiply_signs(layer, x, batch, alone, out);
        else
            leanly::convolve_signs(layer, x, batch, channels_last != 0, alone, out);
        return 0;
    }
    return -1;
}

extern "C" __attribute__((visibility("default"))) const char* leanly_level() { return leanly::levels().front().name; }
