"""Which negatives of infrequent categories take part in a loss (Alexandridis et al., ECCV 2022)."""

from torch import Tensor


def foreground_weights(targets: Tensor, infrequent: Tensor) -> Tensor:
    """v_nj = 1 - [n is foreground] I_j (1 - t_nj): foreground RoIs do not suppress infrequent categories.

    Args:
        targets: one-hot rows (N, C), background rows all zeros.
        infrequent: I (C,), bool.

    Returns:
        (N, C) of 0 and 1 in the type of ``targets``.
    """
    foreground = targets.any(dim=1, keepdim=True)
    return 1 - (foreground & infrequent & (targets == 0)).to(targets.dtype)


def infrequent_share(targets: Tensor, infrequent: Tensor) -> Tensor:
    """rho: the fraction of foreground rows with an infrequent category, a scalar; NaN without foreground."""
    return targets[:, infrequent].sum() / targets.sum()


def random_weights(targets: Tensor, infrequent: Tensor, uniform: Tensor) -> Tensor:
    """``foreground_weights``; in background rows an infrequent negative is kept with probability rho.

        v_nj = 1 - I_j (1 - t_nj) ([n is foreground] + [n is background] [u_nj > rho])

    Without foreground rho is NaN, so every comparison is false and everything is kept.

    Args:
        targets: one-hot rows (N, C), background rows all zeros.
        infrequent: I (C,), bool.
        uniform: u (N, C) in [0, 1).
    """
    background = ~targets.any(dim=1, keepdim=True)
    dropped = background & infrequent & (uniform > infrequent_share(targets, infrequent))
    return foreground_weights(targets, infrequent) * (~dropped).to(targets.dtype)
