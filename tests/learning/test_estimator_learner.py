"""Estimators as learners: what they learn from, what they answer, what is kept of them."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import Samples
from data.inputs import TensorInputs
from learning.estimator_learner import SMALLEST_PROBABILITY, EstimatorLearner
from models.network import Estimator
from models.registry import model_of
from protocol.encodings import decode_labels, encode_labels, encoding_of
from protocol.errors import TrainingError
from protocol.settings import RunSettings
from strategies.soft_labels.dsfl import era
from strategies.soft_labels.scarlet import enhanced_era

CLASSES = 3
FOREST = "sklearn:RandomForestClassifier(n_estimators=10)"
TREE = "sklearn:DecisionTreeClassifier"
LEARNERS = (
    FOREST,
    "sklearn:HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2)",
    "sklearn:LogisticRegression",
    "xgboost:XGBClassifier(n_estimators=3)",
)


class Recorder:
    """Notes what it is fitted on, and answers what it was told to."""

    fits: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]]
    answer: NDArray[np.float64] | None = None

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, inputs: Any, targets: Any, sample_weight: Any) -> None:
        self.fits.append((inputs, targets, sample_weight))
        self.classes = int(targets.max()) + 1

    def predict_proba(self, inputs: Any) -> NDArray[np.float64]:
        shares = np.full((len(inputs), self.classes), 1 / self.classes)
        return shares if self.answer is None else np.tile(self.answer, (len(inputs), 1))


@pytest.fixture(autouse=True)
def nothing_recorded() -> None:
    Recorder.fits, Recorder.answer = [], None


RECORDER = Estimator(
    "recorder", Recorder, lambda fitted: b"%d" % fitted.seed, lambda data: Recorder(int(data))
)


def learner(
    model: str | Estimator = FOREST, private: Samples | None = None, **changes: Any
) -> EstimatorLearner:
    found = model_of(model) if isinstance(model, str) else model
    assert isinstance(found, Estimator)
    return EstimatorLearner(found, RunSettings.parse(changes), "ada", CLASSES, private)


def samples(*classes: int, shape: tuple[int, ...] = (4,)) -> Samples:
    """Return samples whose inputs lie about their class."""
    generator = torch.Generator().manual_seed(len(classes))
    targets = torch.tensor(classes)
    noise = torch.rand(len(classes), *shape, generator=generator) / 2
    return Samples(TensorInputs(noise + targets.view(-1, *[1] * len(shape))), targets)


def soft(*rows: tuple[float, ...]) -> tuple[TensorInputs, Tensor]:
    return TensorInputs(torch.arange(4.0 * len(rows)).view(-1, 4)), torch.tensor(rows)


ALL = samples(*[0, 1, 2] * 8)


# --- what it learns from ---------------------------------------------------------------------------


def test_a_private_sample_is_a_row_of_weight_1() -> None:
    private = samples(0, 1, 1)
    it = learner(RECORDER)
    it.train(private, round=1)
    it.predict(private.inputs)
    [(inputs, targets, weights)] = Recorder.fits
    assert inputs.tolist() == private.inputs.values.tolist()
    assert (targets.tolist(), weights.tolist()) == ([0, 1, 1], [1, 1, 1])


def test_a_public_sample_is_a_row_for_each_class_of_its_label_and_together_half_of_the_private_ones() -> None:
    public, labels = soft((0.75, 0.25, 0.0), (0.0, 0.0, 1.0))
    private = samples(0, 1, 2, 2)
    it = learner(RECORDER, private)
    it.distil(public, labels, round=1)
    it.train(private, round=1)
    it.predict(public)
    [(inputs, targets, weights)] = Recorder.fits
    first, second = public.values.tolist()
    assert inputs[4:].tolist() == [first, first, second]
    assert targets.tolist() == [0, 1, 2, 2, 0, 1, 2]
    assert weights.tolist() == [1, 1, 1, 1, 0.75, 0.25, 1]


def test_it_learns_anew_from_the_labels_of_its_round_alone() -> None:
    it = learner(RECORDER, ALL)
    for round in (1, 2):
        public, labels = soft(*[(0.5, 0.5, 0.0)] * round)
        it.distil(public, labels, round)
        it.train(ALL, round)
        it.predict(ALL.inputs)
    assert [len(targets) - len(ALL) for _, targets, _ in Recorder.fits] == [2, 4]


def test_without_labels_it_learns_from_its_private_samples() -> None:
    it = learner(RECORDER, ALL)
    it.distil(TensorInputs(torch.zeros(0, 4)), torch.zeros(0, CLASSES), round=1)
    it.train(ALL, round=1)
    it.predict(ALL.inputs)
    assert [len(targets) for _, targets, _ in Recorder.fits] == [len(ALL)]


def test_labels_that_come_after_the_last_training_are_learned_together_with_the_private_samples() -> None:
    it = learner(RECORDER, ALL)
    public, labels = soft((0.0, 0.5, 0.5))
    it.distil(public, labels, round=5)
    it.evaluate(ALL)
    assert [len(targets) for _, targets, _ in Recorder.fits] == [len(ALL) + 2]


def test_it_is_fitted_once_a_round() -> None:
    it = learner(RECORDER, ALL)
    public, labels = soft((0.0, 0.5, 0.5))
    it.distil(public, labels, round=1)
    it.train(ALL, round=1)
    it.predict(public)
    it.evaluate(ALL)
    it.state()
    assert len(Recorder.fits) == 1


def test_a_server_learns_from_soft_labels_alone() -> None:
    public = samples(*[0, 1, 2] * 8)
    labels = torch.nn.functional.one_hot(public.targets, CLASSES) * 0.8 + 0.2 / CLASSES
    it = learner(FOREST)
    it.distil(public.inputs, labels, round=1)
    assert it.evaluate(public).accuracy > 0.9


@pytest.mark.parametrize("model", LEARNERS)
def test_soft_labels_teach_a_class_of_which_it_has_no_sample(model: str) -> None:
    private = samples(*[0, 1] * 10)
    public = samples(*[0, 1, 2] * 10)
    it = learner(model, private)
    it.train(private, round=1)
    alone = it.evaluate(public).accuracy
    it.distil(public.inputs, torch.nn.functional.one_hot(public.targets, CLASSES).float(), round=2)
    it.train(private, round=2)
    assert it.evaluate(public).accuracy > alone + 0.2


def test_images_are_flattened() -> None:
    images = samples(*[0, 1, 2] * 8, shape=(1, 4, 4))
    it = learner(FOREST, images)
    it.train(images, round=1)
    assert it.predict(images.inputs).shape == (24, CLASSES)


# --- what it answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LEARNERS)
@pytest.mark.parametrize("classes", [(0, 2), (1, 2), (0, 1, 2)])
def test_answers_are_probabilities_over_all_classes_and_0_for_those_it_never_saw(
    model: str, classes: tuple[int, ...]
) -> None:
    private = samples(*classes * 6)
    it = learner(model, private)
    it.train(private, round=1)
    answers = it.predict(ALL.inputs)
    assert (answers.dtype, answers.shape) == (torch.float32, (len(ALL), CLASSES))
    assert torch.allclose(answers.sum(dim=1), torch.ones(len(ALL)), atol=1e-6)
    assert answers[:, [each for each in range(CLASSES) if each not in classes]].sum() == 0
    assert it.evaluate(private).accuracy > 0.6


def test_a_client_with_one_class_and_no_labels_answers_that_class() -> None:
    private = samples(1, 1, 1)
    it = learner(TREE, private)
    it.train(private, round=1)
    assert it.predict(ALL.inputs).tolist() == [[0, 1, 0]] * len(ALL)


def test_one_that_has_learned_nothing_answers_all_classes_alike() -> None:
    it = learner(FOREST)
    assert torch.allclose(it.predict(ALL.inputs), torch.full((len(ALL), CLASSES), 1 / CLASSES))
    assert it.evaluate(ALL).loss == pytest.approx(np.log(CLASSES), abs=1e-6)


@pytest.mark.parametrize("encoding", ["float32", "float16", "uint8"])
@pytest.mark.parametrize(
    "sharpen", [lambda mean: enhanced_era(mean, 2.0), lambda mean: era(mean, 0.1)], ids=["enhanced", "era"]
)
def test_labels_stay_probabilities_when_answers_of_0_are_sharpened_and_sent(
    encoding: str, sharpen: Any
) -> None:
    private = samples(1, 1, 1)
    it = learner(TREE, private)
    it.train(private, round=1)
    wire = encoding_of(RunSettings.parse({"distillation.labels": encoding}))
    received = decode_labels(encode_labels(it.predict(ALL.inputs), wire), CLASSES, wire)
    labels = sharpen(received.double())
    assert labels.isfinite().all()
    assert torch.allclose(labels.double().sum(dim=1), torch.ones(len(ALL), dtype=torch.float64))


def test_a_wrong_answer_of_certainty_has_a_finite_loss() -> None:
    private = samples(1, 1, 1)
    it = learner(TREE, private)
    it.train(private, round=1)
    scored = it.evaluate(samples(0, 1))
    assert scored.accuracy == 0.5
    assert scored.loss == pytest.approx(-np.log(SMALLEST_PROBABILITY) / 2, rel=1e-3)


def test_the_runs_metric_is_that_of_its_probabilities() -> None:
    it = learner("sklearn:GaussianNB", ALL, **{"data.metric": "auroc"})
    it.train(ALL, round=1)
    assert it.evaluate(ALL).metric == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.5, 0.5], r"has shape \(24, 2\), not \(24, 3\)"),
        ([0.5, np.nan, 0.5], "holds no probabilities"),
        ([1.5, -0.5, 0.0], "holds no probabilities"),
        ([0.5, 0.0, 0.0], "holds no probabilities whose rows sum to 1"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(answer: list[float], message: str) -> None:
    Recorder.answer = np.array(answer)
    it = learner(RECORDER, ALL)
    it.train(ALL, round=1)
    with pytest.raises(TrainingError, match=f'model = "recorder": .*{message}'):
        it.predict(ALL.inputs)


def test_what_the_estimator_raises_is_told_with_its_name() -> None:
    negative = Samples(TensorInputs(-ALL.inputs.values), ALL.targets)
    it = learner("sklearn:MultinomialNB", negative)
    it.train(negative, round=1)
    with pytest.raises(
        TrainingError, match='model = "sklearn:MultinomialNB": cannot be fitted: ValueError: Negative'
    ):
        it.predict(ALL.inputs)


# --- what is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LEARNERS)
def test_a_repeated_round_ends_in_the_same_state_bit_for_bit(model: str) -> None:
    states = []
    for _ in range(2):
        it = learner(model, ALL)
        it.distil(*soft((0.2, 0.3, 0.5)), round=3)
        it.train(ALL, round=3)
        states.append(it.state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_round_and_each_client_has_its_own_draws() -> None:
    it = learner(RECORDER, ALL)
    seeds = set()
    for round in (1, 2):
        it.train(ALL, round)
        seeds.add(bytes(it.state()["estimator"].numpy()))
    assert len(seeds) == 2


@pytest.mark.parametrize("private", [ALL, samples(1, 1), None], ids=["classes", "one class", "nothing"])
def test_what_is_taken_up_answers_as_what_was_kept(private: Samples | None) -> None:
    it, again = learner(FOREST, private), learner(FOREST, private)
    if private is not None:
        it.train(private, round=1)
    again.load(it.state())
    assert torch.equal(again.predict(ALL.inputs), it.predict(ALL.inputs))
    assert all(torch.equal(tensor, it.state()[name]) for name, tensor in again.state().items())


OTHERS: dict[str, dict[str, Tensor]] = {
    "a network's": {"layers.0.weight": torch.zeros(2, 2)},
    "classes that there are not": {
        "estimator": torch.zeros(0, dtype=torch.uint8),
        "classes": torch.tensor([7]),
    },
    "bytes without classes": {"estimator": torch.zeros(3, dtype=torch.uint8), "classes": torch.tensor([1])},
}


@pytest.mark.parametrize("state", OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_learner_is_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(RuntimeError, match=f"is no state of '{FOREST[:8]}"):
        learner(FOREST).load(state)


def test_damaged_bytes_are_refused_when_they_are_needed() -> None:
    it = learner(FOREST)
    it.load({"estimator": torch.zeros(9, dtype=torch.uint8), "classes": torch.tensor([0, 1])})
    with pytest.raises(TrainingError, match="cannot be read: ValueError: holds no estimator"):
        it.predict(ALL.inputs)
