"""Least squares and the choice of channels against known solutions."""

import torch
import torch.nn.functional as F
from torch import nn

from fithubert.distill.warmstart.layers import fit_norm
from fithubert.distill.warmstart.regression import choose_channels, covariance, fit_linear, square_root


def test_a_linear_map_is_found_over_pieces() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(3, 5), torch.randn(3)
    pieces = [torch.randn(n, 5) + 2 for n in (40, 7, 13)]
    found = fit_linear(pieces, [F.linear(x, weight, bias) for x in pieces])
    torch.testing.assert_close(found.weight, weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.bias, bias, atol=1e-3, rtol=0)
    through_0 = fit_linear(pieces, [F.linear(x, weight) for x in pieces], intercept=False)
    torch.testing.assert_close(through_0.weight, weight, atol=1e-3, rtol=0)
    assert not through_0.bias.any()


def test_the_fit_is_the_least_squares_one() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(200, 4), torch.randn(200, 2)
    design = torch.cat([x, torch.ones(200, 1)], 1)
    expected = torch.linalg.lstsq(design, y).solution
    found = fit_linear([x], [y])
    torch.testing.assert_close(torch.cat([found.weight, found.bias[:, None]], 1), expected.T, atol=1e-4, rtol=0)


def test_maps_in_a_row_are_one_map() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 4)
    first, second = fit_linear([x], [torch.randn(20, 3)]), fit_linear([torch.randn(20, 3)], [torch.randn(20, 2)])
    torch.testing.assert_close(second.after(first)(x), second(first(x)))


def test_chosen_channels_restore_the_others() -> None:
    """Eight channels made of three: any choice of three that is any good leaves nothing."""
    torch.manual_seed(0)
    x = torch.randn(500, 3) @ torch.randn(3, 8)
    chosen = choose_channels(covariance([x]), 3)
    assert len(set(chosen.tolist())) == 3
    restored = fit_linear([x[:, chosen]], [x])(x[:, chosen])
    assert (restored - x).norm() < 1e-3 * x.norm()


def test_a_copy_is_chosen_last() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 4) * torch.tensor([4.0, 3.0, 2.0, 1.0])
    doubled = torch.cat([x, x[:, :1]], 1)
    assert set(choose_channels(covariance([doubled]), 4).tolist()) in ({0, 1, 2, 3}, {4, 1, 2, 3})
    assert len(choose_channels(covariance([x]), 9)) == 4


def test_square_roots_multiply_to_the_matrix_and_to_one() -> None:
    torch.manual_seed(0)
    moments = covariance([torch.randn(100, 6)], centre=False)
    root, inverse = square_root(moments)
    torch.testing.assert_close(root @ root, moments)
    torch.testing.assert_close(root @ inverse, torch.eye(6).double())


def test_a_norm_finds_its_gain_and_bias() -> None:
    torch.manual_seed(0)
    wanted, found = nn.LayerNorm(6), nn.LayerNorm(6)
    nn.init.normal_(wanted.weight, 1.0, 0.3)
    nn.init.normal_(wanted.bias)
    pieces = [torch.randn(50, 6) * 3, torch.randn(20, 6)]
    with torch.no_grad():
        fit_norm(found, pieces, [wanted(x) for x in pieces])
    torch.testing.assert_close(found.weight, wanted.weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.bias, wanted.bias, atol=1e-4, rtol=0)
