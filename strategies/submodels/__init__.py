"""Methods that train parts of one network: ScaleFL (Ilhan, Su, Liu, CVPR 2023) and its relatives."""
