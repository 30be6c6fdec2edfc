"""Estimators by name: which there are, with what parameters, and how a fitted one is kept."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from models.network import Estimator
from models.parameters import split_call
from models.registry import MODELS, model_of, require_inputs
from models.skops_format import TRUSTED, dump, load
from protocol.errors import SettingsError
from protocol.values import split_names

pytestmark = pytest.mark.slow

SEED = 2**62 + 7
NAMES = (
    "sklearn:AdaBoostClassifier(n_estimators=5)",
    "sklearn:BaggingClassifier(n_estimators=3)",
    "sklearn:BernoulliNB",
    "sklearn:CalibratedClassifierCV(cv=2)",
    "sklearn:DecisionTreeClassifier",
    "sklearn:ExtraTreesClassifier(n_estimators=5)",
    "sklearn:GaussianNB",
    "sklearn:GradientBoostingClassifier(n_estimators=3)",
    "sklearn:HistGradientBoostingClassifier(max_iter=3)",
    "sklearn:LogisticRegression",
    "sklearn:MLPClassifier(max_iter=3, hidden_layer_sizes=(8, 4))",
    "sklearn:MLPClassifier(max_iter=3, solver='sgd')",
    "sklearn:RandomForestClassifier(n_estimators=5, min_samples_leaf=3)",
    "sklearn:SGDClassifier(loss='log_loss')",
    "xgboost:XGBClassifier(n_estimators=3)",
    "xgboost:XGBRFClassifier(n_estimators=3)",
)
"""Some of each family."""


def estimator_of(name: str) -> Estimator:
    found = model_of(name)
    assert isinstance(found, Estimator)
    return found


def rows(
    count: int = 60, classes: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    draw = np.random.default_rng(0)
    targets = np.arange(count) % classes
    inputs = draw.normal(targets[:, None], 1, (count, 4)).astype(np.float32)
    return inputs, targets, draw.uniform(0.1, 1, count)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_back_answers_as_what_was_fitted(name: str) -> None:
    estimator = estimator_of(name)
    inputs, targets, weights = rows()
    fitted = estimator.make(SEED).fit(inputs, targets, sample_weight=weights)
    again = estimator.load(estimator.dump(fitted))
    assert np.array_equal(again.predict_proba(inputs), fitted.predict_proba(inputs))


@pytest.mark.parametrize(
    "name", ["RandomForestClassifier(n_estimators=5)", "HistGradientBoostingClassifier(max_iter=3)"]
)
def test_an_estimator_fitted_twice_alike_becomes_the_same_bytes(name: str) -> None:
    estimator = estimator_of(f"sklearn:{name}")
    inputs, targets, weights = rows()
    one, other = (estimator.make(SEED).fit(inputs, targets, sample_weight=weights) for _ in range(2))
    assert estimator.dump(one) == estimator.dump(other)


def test_the_seed_is_the_estimators_and_it_computes_on_one_thread() -> None:
    forest = estimator_of("sklearn:RandomForestClassifier").make(SEED)
    assert (forest.random_state, forest.n_jobs) == (SEED % 2**32, None)  # which is 1
    assert estimator_of("xgboost:XGBClassifier").make(SEED).n_jobs == 1


def test_no_sample_is_withheld_to_stop_early_unless_it_is_asked_for() -> None:
    name = "sklearn:HistGradientBoostingClassifier"
    assert estimator_of(name).make(0).early_stopping is False
    assert estimator_of(f"{name}(early_stopping=True)").make(0).early_stopping is True


REFUSED = {
    "sklearn:RandomForst": "no such classifier, did you mean RandomForestClassifier",
    "sklearn:RandomForestRegressor": "no such classifier",
    "sklearn:KNeighborsClassifier": "its fit takes no sample_weight",
    "sklearn:SVC": "it has no predict_proba",
    "sklearn:VotingClassifier": "cannot be made from a name",
    "sklearn:RandomForestClassifier(trees=3)": "there is no parameter trees; there are bootstrap, ccp_alpha",
    "sklearn:RandomForestClassifier(n_estimators=-3)": "'n_estimators' parameter .* must be an int in",
    "sklearn:RandomForestClassifier(random_state=3)": "random_state: is set by the run",
    "sklearn:RandomForestClassifier(n_jobs=3)": "n_jobs: is set by the run",
    "sklearn:RandomForestClassifier(3)": "a name with parameters whose values are literals",
    "sklearn:RandomForestClassifier(n_estimators=3": "a name with parameters whose values are literals",
    "sklearn:RandomForestClassifier(verbose=open(1))": "a name with parameters whose values are literals",
    "sklearn:ensemble.RandomForestClassifier()": "a name with parameters whose values are literals",
    "xgboost:XGBRegressor": "must be one of XGBClassifier, XGBRFClassifier",
    "xgboost:XGBClassifier(trees=3)": "there is no parameter trees; there are base_score",
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_a_name_that_cannot_be_is_refused_with_what_can(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refusal:
        model_of(name, "models")
    assert str(refusal.value).startswith(f'models = "{name}": ')


def test_xgboost_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xgboost", None)
    with pytest.raises(SettingsError, match="uv pip install xgboost-cpu"):
        model_of("xgboost:XGBClassifier(n_estimators=77)")


def test_an_estimator_reads_numbers_images_and_arrays_but_no_texts() -> None:
    for shape in ((13,), (1, 8, 8)):
        require_inputs("sklearn:GaussianNB", shape)
    with pytest.raises(
        SettingsError, match=r"'sklearn:GaussianNB': reads arrays and images and numbers, but .* texts"
    ):
        require_inputs("sklearn:GaussianNB", (64, 4096), kind="texts")


VALUES = (
    st.none()
    | st.integers()
    | st.booleans()
    | st.text("ab,()'", max_size=4)
    | st.tuples(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
)


@given(st.dictionaries(st.sampled_from(["alpha", "tol", "max_iter", "solver"]), VALUES))
def test_parameters_are_read_as_python_writes_them(parameters: dict[str, object]) -> None:
    text = f"Name({', '.join(f'{key}={value!r}' for key, value in parameters.items())})"
    assert split_call(text) == ("Name", parameters)


def test_commas_between_brackets_divide_no_names() -> None:
    names = ["sklearn:MLPClassifier(alpha=1, hidden_layer_sizes=(8, 4), tol=1)", "mlp", "sklearn:GaussianNB"]
    assert split_names(", ".join(names)) == names


# --- a user's own ----------------------------------------------------------------------------------


class Frequencies:
    """Answers how often it saw each class, whatever it is asked."""

    def fit(
        self, inputs: NDArray[np.float32], targets: NDArray[np.int64], sample_weight: NDArray[np.float64]
    ) -> None:
        self.shares_ = np.bincount(targets, sample_weight) / sample_weight.sum()

    def predict_proba(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.tile(self.shares_, (len(inputs), 1))


class Stump(BaseEstimator):  # type: ignore[misc]
    """A tree of scikit-learn's within a class of one's own."""

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(
        self, inputs: NDArray[np.float32], targets: NDArray[np.int64], sample_weight: NDArray[np.float64]
    ) -> None:
        self.tree_ = DecisionTreeClassifier(max_depth=1, random_state=self.random_state)
        self.tree_.fit(inputs, targets, sample_weight=sample_weight)

    def predict_proba(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        answers: NDArray[np.float64] = self.tree_.predict_proba(inputs)
        return answers


class NoWeights(Frequencies):
    def fit(self, inputs: object, targets: object) -> None:  # type: ignore[override]
        """Take no sample_weight."""


@pytest.mark.parametrize("kind", [Frequencies, Stump])
def test_ones_own_class_learns_and_is_read_back(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.estimators.open_packages", lambda: (kind.__module__.split(".")[0],))
    estimator = MODELS._accept(kind, "custom.mine:It")
    assert isinstance(estimator, Estimator)
    assert estimator.name == "custom.mine:It"
    inputs, targets, weights = rows()
    fitted = estimator.make(SEED)
    fitted.fit(inputs, targets, sample_weight=weights)
    again = estimator.load(estimator.dump(fitted))
    assert np.array_equal(again.predict_proba(inputs), fitted.predict_proba(inputs))


@pytest.mark.parametrize(
    ("found", "message"),
    [(NoWeights, "takes no sample_weight"), (Frequencies(), "an estimator's class, not an object")],
)
def test_ones_own_that_cannot_take_part_is_refused(found: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        MODELS._accept(found, "custom.mine:It")


# --- the format ------------------------------------------------------------------------------------


def test_a_type_that_is_not_trusted_is_not_built() -> None:
    fitted = Frequencies()
    fitted.shares_ = np.ones(2)
    with pytest.raises(ValueError, match=r"UntrustedTypesFoundException.*Frequencies"):
        load(dump(fitted))
    with pytest.raises(ValueError, match=r"UntrustedTypesFoundException.*Frequencies"):
        load(dump(fitted), ("custom",))


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    with pytest.raises(ValueError, match="holds no estimator that can be read"):
        load(pickle.dumps(Attack()))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["sklearn:RandomForestClassifier", "xgboost:XGBClassifier"])
@pytest.mark.parametrize("data", [b"", b"no estimator"])
def test_damaged_bytes_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(ValueError, match="that can be read"):
        estimator_of(name).load(data)


def test_what_cannot_be_written_without_pickle_is_refused_with_the_remedy() -> None:
    fitted = Frequencies()
    fitted.shares_ = (step for step in range(3))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"state dump and load in a models\.network\.Estimator"):
        dump(fitted)


def test_all_that_is_trusted_is_a_part_of_scikit_learn_that_exists() -> None:
    from importlib import import_module

    for name in TRUSTED:
        module, _, kind = name.rpartition(".")
        assert module.startswith("sklearn.")
        assert isinstance(getattr(import_module(module), kind), type)


def test_nothing_of_memory_addresses_is_in_the_bytes() -> None:
    inputs, targets, _ = rows()
    kept = [RandomForestClassifier(n_estimators=2, random_state=0).fit(inputs, targets) for _ in range(2)]
    assert len({dump(forest) for forest in kept}) == 1
