"""Why attention concentrates, as small models with a closed form: noise, bags, pruning."""

import torch


def ridge_of_noise(second_moment, weights, variances):
    """Return what least squares on y = w.x learns when it reads x + e, noise e afresh each time.

    E (w'.(x + e) - w.x)^2 = (w' - w)' S (w' - w) + sum_i var(e_i) w'_i^2, so the noise is a ridge
    penalty (Bishop 1995, doi:10.1162/neco.1995.7.1.108) and w' = (S + diag var)^-1 S w.

    Args:
        second_moment: S = E x x', (d, d), positive definite.
        weights: w of the data, (d,).
        variances: of the noise, (d,) or (n, d), at least 0.
    """
    penalised = second_moment + torch.diag_embed(variances)
    return torch.linalg.solve(penalised, second_moment @ weights)


def shrinkage(second_moment, weights, variances, index, extra):
    """Return weight `index` when noise of variance `extra` is added to that feature alone.

    By Sherman and Morrison w_i(t) = w_i(0) / (1 + t (M^-1)_ii) with M = S + diag var: |w_i| falls
    strictly, whatever the other features are, since (M^-1)_ii > 0.
    """
    penalised = second_moment + torch.diag(variances)
    start = ridge_of_noise(second_moment, weights, variances)[index]
    return start / (1 + extra * torch.linalg.inv(penalised)[index, index])


def descend_on_noise(x, y, variances, *, runs, steps, rate, generator):
    """Return what gradient descent learns from noisy data: (runs, d), one row a run of its own.

    Every step draws the noise afresh. The gradient is affine in the weights, with coefficients
    that do not depend on them, so the iterates' mean follows the noiseless recursion exactly: once
    that has settled they are unbiased, and the second half of the steps is averaged.
    """
    weights = torch.zeros(runs, x.shape[1], dtype=x.dtype)
    total = torch.zeros_like(weights)
    for step in range(steps):
        noise = torch.randn(runs, *x.shape, generator=generator, dtype=x.dtype)
        seen = x + noise * variances.sqrt()
        error = (seen @ weights[:, :, None])[..., 0] - y
        weights = weights - rate * (error[:, None] @ seen)[:, 0] / len(x)
        if 2 * step >= steps:
            total += weights
    return total / (steps - (steps + 1) // 2)


def precision_weights(variances):
    """Return the attention that reads a signal common to all patches with the least error.

    minimise sum_i a_i^2 var_i under sum_i a_i = 1: a_i = (1 / var_i) / sum_j (1 / var_j).
    """
    return (1 / variances) / (1 / variances).sum(-1, keepdim=True)


def learn_softmax(covariance, *, steps=4000, rate=0.5):
    """Return a = softmax(z), (d,), after gradient descent of a' C a on z from equal weights.

    The step is divided by the loss: the loss shrinks by orders of magnitude as attention finds
    the clean patches, and its logarithm does not.
    """
    z = torch.zeros(len(covariance), dtype=covariance.dtype)
    for _ in range(steps):
        a = z.softmax(0)
        pull = 2 * covariance @ a / (a @ covariance @ a)
        z = z - rate * a * (pull - a @ pull)  # the softmax's Jacobian: diag(a) - a a'
    return z.softmax(0)


def pull_on_patches(pooling, scores, features):
    """Return d pooled / d score of each patch, (B, K, h, w): whom the bag's label is handed to."""
    leaf = scores.detach().clone().requires_grad_()
    (pull,) = torch.autograd.grad(pooling(leaf, features).sum(), leaf)
    return pull


def bags(count, *, generator, together, side=8, size=2):
    """Return boats on water: patches (B, 3, side, side), labels (B,), boats (B, side, side).

    A positive bag has a boat of `size` x `size` patches: its first patch, the hull, shows feature 0
    at 3, the others at 1. Water, feature 1 at 1, fills the lower half in a share `together` of the
    positive bags and in 1 - `together` of the negative ones. Feature 2 is empty; noise 0.5 on all.
    """
    label = torch.rand(count, generator=generator) < 0.5
    water = (torch.rand(count, generator=generator) < together) == label
    features = 0.5 * torch.randn(count, 3, side, side, generator=generator)
    features[:, 1, side // 2 :] += water[:, None, None].float()
    boat = torch.zeros(count, side, side, dtype=torch.bool)
    corner = torch.randint(0, side - size + 1, (count, 2), generator=generator)
    for i in label.nonzero()[:, 0].tolist():
        top, left = corner[i].tolist()
        boat[i, top : top + size, left : left + size] = True
        features[i, 0, top, left] += 2.0
    features[:, 0] += boat.float()
    return features, label.float(), boat


def largest(k):
    """Return a rule that keeps the k largest weights of each row."""

    def keep(weights):
        index = weights.topk(min(k, weights.shape[-1]), -1).indices
        return torch.zeros_like(weights, dtype=torch.bool).scatter(-1, index, True)

    return keep


def anywhere(k, seed=0):
    """Return a rule that keeps k weights of each row drawn at random: the control."""

    def keep(weights):
        drawn = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed))
        return largest(k)(drawn)

    return keep


def rescaled(keep):
    """Return the same rule with what is kept scaled up to each row's former sum."""

    def factor(weights):
        mask = keep(weights).to(weights)
        kept = (weights * mask).sum(-1, keepdim=True).clamp_min(1e-12)
        return mask * weights.sum(-1, keepdim=True) / kept

    return factor
