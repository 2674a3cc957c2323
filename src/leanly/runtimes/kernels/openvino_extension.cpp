// The convolution of signs as an operation that OpenVINO runs inside its own threads.
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>
#include <tbb/parallel_for.h>

#include "binary_convolution.hpp"

namespace leanly {

using Numbers = std::vector<int64_t>;

class BinaryConvolution : public ov::op::Op {
public:
    OPENVINO_OP("BinaryConvolution", "leanly")

    BinaryConvolution() = default;
    BinaryConvolution(const ov::OutputVector& inputs, Numbers kernel, Numbers strides, Numbers pads, Numbers dilations)
        : Op(inputs), kernel_(kernel), strides_(strides), pads_(pads), dilations_(dilations) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto given = get_input_partial_shape(0);
        ov::PartialShape shape = ov::PartialShape::dynamic(4);
        const auto filters = get_input_partial_shape(FILTERS);
        if (filters.rank().is_static()) shape[1] = filters[0];
        if (given.rank().is_static()) {
            shape[0] = given[0];
            for (int side = 0; side < 2; ++side)
                if (given[2 + side].is_static()) shape[2 + side] = out_size(given[2 + side].get_length(), side);
        }
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<BinaryConvolution>(inputs, kernel_, strides_, pads_, dilations_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("kernel_shape", kernel_);
        visitor.on_attribute("strides", strides_);
        visitor.on_attribute("pads", pads_);
        visitor.on_attribute("dilations", dilations_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const auto given = inputs[0].get_shape();
        const Shape shape{
            static_cast<int64_t>(given[1]), static_cast<int64_t>(given[2]), static_cast<int64_t>(given[3]),
            static_cast<int64_t>(inputs[FILTERS].get_shape()[0]), kernel_[0], kernel_[1], strides_[0], strides_[1],
            pads_[0], pads_[1], dilations_[0], dilations_[1],
            out_size(given[2], 0), out_size(given[3], 1)};
        std::call_once(prepared_, [&] {
            filters_ = std::make_unique<Filters>(inputs[FILTERS].data<uint8_t>(), shape, levels().front());
        });
        outputs[0].set_shape({given[0], static_cast<size_t>(shape.filters), static_cast<size_t>(shape.out_height),
                              static_cast<size_t>(shape.out_width)});
        const Parallel parallel = [](int64_t count, const Range& work) {
            tbb::parallel_for(tbb::blocked_range<int64_t>(0, count), [&](const tbb::blocked_range<int64_t>& range) {
                work(range.begin(), range.end());
            });
        };
        convolve_signs(
            inputs[0].data<float>(), inputs[1].data<float>(), *filters_, inputs[3].data<float>(),
            inputs[4].data<float>(), shape, static_cast<int64_t>(given[0]), parallel, outputs[0].data<float>());
        return true;
    }

private:
    static constexpr size_t FILTERS = 2;

    int64_t out_size(int64_t size, int side) const {
        const int64_t reach = dilations_[side] * (kernel_[side] - 1) + 1;
        return (size + pads_[side] + pads_[2 + side] - reach) / strides_[side] + 1;
    }

    Numbers kernel_, strides_, pads_, dilations_;
    mutable std::once_flag prepared_;
    mutable std::unique_ptr<Filters> filters_;  // inputs but the first are constants
};

}  // namespace leanly

static ov::OutputVector read_node(const ov::frontend::NodeContext& node) {
    ov::OutputVector inputs;
    for (size_t i = 0; i < node.get_input_size(); ++i) inputs.push_back(node.get_input(static_cast<int>(i)));
    const auto numbers = [&](const char* name) { return node.get_attribute<leanly::Numbers>(name); };
    return std::make_shared<leanly::BinaryConvolution>(
               inputs, numbers("kernel_shape"), numbers("strides"), numbers("pads"), numbers("dilations"))
        ->outputs();
}

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<leanly::BinaryConvolution>>(),
    std::make_shared<ov::frontend::onnx::ConversionExtension>("BinaryConvolution", "leanly", read_node),
}))

// For tests and for timing: one convolution in one thread by a level of `levels()`; what the processor lacks is -1.
extern "C" __attribute__((visibility("default"))) int leanly_convolve_signs(
    const char* level, const float* x, const float* threshold, const uint8_t* packed, const float* factor,
    const float* bias, const int64_t* sizes, int64_t batch, float* out) {
    leanly::Shape shape;
    static_assert(sizeof(shape) == 14 * sizeof(int64_t), "a shape is whole numbers");
    std::memcpy(&shape, sizes, sizeof(shape));
    for (const auto& found : leanly::levels()) {
        if (std::string(found.name) != level) continue;
        const leanly::Filters filters(packed, shape, found);
        leanly::convolve_signs(
            x, threshold, filters, factor, bias, shape, batch,
            [](int64_t count, const leanly::Range& work) { work(0, count); }, out);
        return 0;
    }
    return -1;
}

extern "C" __attribute__((visibility("default"))) const char* leanly_level() { return leanly::levels().front().name; }
