"""ScaleFL (Ilhan, Su, Liu, CVPR 2023) and its relatives: unequal devices train parts of one network."""

from strategies.submodels.client import SubmodelClient
from strategies.submodels.server import SubmodelServer

__all__ = ["SubmodelClient", "SubmodelServer"]
