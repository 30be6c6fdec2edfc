"""A metric: balanced accuracy, the mean recall over classes.

data.metric = "custom.metrics:BALANCED_ACCURACY"
"""

from torch import Tensor

from learning.metrics import Metric


def balanced_accuracy(probabilities: Tensor, targets: Tensor) -> float | None:
    """Return the mean recall of the classes that occur; None without samples.

    Parameters
    ----------
    probabilities
        Shape (n, classes).
    targets
        Classes, int64 of shape (n,).
    """
    found = probabilities.argmax(dim=1) == targets
    occurring = sorted(set(targets.tolist()))
    recalls = [float(found[targets == each].double().mean()) for each in occurring]
    return sum(recalls) / len(recalls) if recalls else None


BALANCED_ACCURACY = Metric("balanced accuracy", balanced_accuracy)
