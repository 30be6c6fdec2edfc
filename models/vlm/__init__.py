"""ScaleFL-med: vision-language models as elastic networks, cut in depth and in the rank of their adapters.

Nothing of transformers or peft is imported before a network is built.
"""

from models.vlm.design import vlm_design
from models.vlm.network import VisionLanguageNetwork

__all__ = ["VisionLanguageNetwork", "vlm_design"]
