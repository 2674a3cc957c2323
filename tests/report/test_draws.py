from leanly.families.candidate import Candidate
from leanly.measurement.records import Measurement
from leanly.quantize import CorrectBias, LearnSteps, Smooth, Static, WeightsOnly
from leanly.recipe import Pass, Recipe
from leanly.report.draws import calibration_spread
from leanly.search.trial import Trial


def trial(number: int, *passes: Pass, metric: float | None = 0.9, runtime: str = "openvino") -> Trial:
    measured = Measurement(runtime, "int8", 1, {}, 0.1, None, 100, metric=metric)
    return Trial(number, Candidate(str(number), Recipe(passes), runtime, "int8"), "measured", measurement=measured)


def test_draws_of_one_recipe_belong_together_and_nothing_else_does():
    trials = [
        trial(0, metric=0.99),
        trial(1, Static(), metric=0.90),
        trial(2, Static(draw=1), metric=0.95),
        trial(3, Static(draw=2), metric=None),
        trial(4, Static(observer="minmax", draw=1)),
        trial(5, Static(draw=1), runtime="onnxruntime"),
        trial(6, Smooth(), Static(draw=3)),
        trial(7, Static(draw=3), metric=0.85),
    ]
    assert [(first.number, metrics) for first, metrics in calibration_spread(trials)] == [(1, [0.90, 0.95, 0.85])]


def test_draws_with_steps_behind_the_quantizers_belong_together():
    trials = [
        trial(1, Static(), metric=0.90),
        trial(2, Static(), CorrectBias(), metric=0.91),
        trial(3, Static(draw=1), CorrectBias(), metric=0.93),
        trial(4, Smooth(), Static(draw=2), LearnSteps(), metric=0.94),
        trial(5, Smooth(), Static(), LearnSteps(), metric=0.95),
        trial(6, WeightsOnly(), metric=0.96),
    ]
    spreads = [(first.number, metrics) for first, metrics in calibration_spread(trials)]
    assert spreads == [(2, [0.91, 0.93]), (4, [0.94, 0.95])]
