"""GradDrop: per parameter, the entries of one sign, drawn by their majority."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import Floats

EXAMPLE = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]


def dropped(jacobian: Floats, leak: Any, uniform: Floats) -> list[float]:
    """Lines 10 to 15 of Algorithm 1, one entry after the other."""
    direction = []
    for column, u in zip(jacobian.T.tolist(), uniform.tolist(), strict=True):
        total = sum(abs(entry) for entry in column)
        purity = 0.5 * (1 + sum(column) / total) if total else 0.5
        masks = [float(entry > 0 if purity > u else entry < 0) for entry in column]
        direction.append(
            sum((ell + (1 - ell) * mask) * g for ell, mask, g in zip(leak, masks, column, strict=True))
        )
    return direction


class TestWorkedValues:
    def test_the_example_of_the_jacobian_descent_paper(self) -> None:
        """The first column is 6 with a probability of ½(1 + 2/10) = 0.6, and else −4."""
        directions = mojd.graddrop(np.broadcast_to(EXAMPLE, (20_000, 2, 3)), seed=0)
        assert (directions[:, 1:] == 2.0).all()
        assert set(directions[:, 0].tolist()) == {6.0, -4.0}
        # Four deviations of the mean of 20 000 draws.
        assert (directions[:, 0] == 6.0).mean() == pytest.approx(0.6, abs=4 * 0.49 / 141)

    def test_columns_are_drawn_independently(self) -> None:
        directions = mojd.graddrop(np.broadcast_to([[1.0, 1.0], [-1.0, -1.0]], (20_000, 2, 2)), seed=1)
        assert np.corrcoef(directions.T)[0, 1] == pytest.approx(0.0, abs=4 / 141)

    def test_leaks(self) -> None:
        """Half of the first gradient passes always: 6 − ½·4, or −4; ½ + ½ + 1 where signs agree."""
        found = {tuple(mojd.graddrop(EXAMPLE, [0.5, 0.0], seed=seed).tolist()) for seed in range(20)}
        assert found == {(4.0, 2.0, 2.0), (-4.0, 2.0, 2.0)}
        assert mojd.graddrop(EXAMPLE, [1.0, 1.0], seed=0).tolist() == [2.0, 2.0, 2.0]
        assert np.array_equal(mojd.graddrop(EXAMPLE, leak=[0.0, 0.0], seed=0), mojd.graddrop(EXAMPLE, seed=0))

    def test_one_objective(self) -> None:
        assert mojd.graddrop([[-4.0, 0.0, 3.0]], seed=0).tolist() == [-4.0, 0.0, 3.0]

    def test_entries_next_to_the_largest_number(self) -> None:
        """Their sizes add up to infinity, what is kept does not."""
        for seed in range(10):
            assert abs(mojd.graddrop([[1.2e308], [-1.2e308]], seed=seed).item()) == 1.2e308

    def test_one_sign_leaves_no_choice(self) -> None:
        """A purity of 1 or 0, in columns of any length; zeros have no sign."""
        rows = np.abs(np.random.default_rng(0).standard_normal((7, 1000)))
        rows[3] = 0.0
        for sign in (1.0, -1.0):
            np.testing.assert_allclose(
                mojd.graddrop(sign * rows, seed=0), sign * rows.sum(axis=0), rtol=1e-14
            )


class TestAlgorithm:
    @given(k=st.integers(1, 6), n=st.integers(1, 8), leaky=st.booleans(), seed=st.integers(0, 2**32 - 1))
    def test_entry_by_entry(self, k: int, n: int, leaky: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.integers(-3, 4, (k, n)) * 2.0 ** rng.integers(-9, 9, (k, 1))
        leak = rng.uniform(0, 1, k) if leaky else None
        expected = dropped(rows, [0.0] * k if leak is None else leak, np.random.default_rng(seed).random(n))
        direction = mojd.graddrop(rows, leak, seed=seed)
        np.testing.assert_allclose(direction, expected, rtol=1e-12, atol=1e-12 * np.abs(rows).max())

    def test_torchjd_agrees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Given the draws. A column of zeros is NaN in its purity, but no entry is kept there either."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(40):
            rng = np.random.default_rng(seed)
            rows = rng.standard_normal((seed % 6 + 1, 7))
            rows[:, 2] = 0.0
            leak = rng.uniform(0, 1, len(rows)) if seed % 2 else None
            uniform = torch.tensor(np.random.default_rng(seed).random(7))
            monkeypatch.setattr(torch, "rand", lambda _shape, u=uniform, **_options: u)
            theirs = aggregation.GradDrop(leak=None if leak is None else torch.tensor(leak))
            expected = theirs(torch.tensor(rows)).numpy()
            np.testing.assert_allclose(mojd.graddrop(rows, leak, seed=seed), expected, rtol=1e-13, atol=1e-14)


class TestProperties:
    def test_it_may_conflict(self) -> None:
        """[1], [−1]: whichever sign is drawn, the other objective gets worse."""
        for seed in range(10):
            direction = mojd.graddrop([[1.0], [-1.0]], seed=seed)
            assert abs(direction.item()) == 1.0

    def test_it_is_not_linear_under_scaling(self) -> None:
        """[1], [−1] times (1, 1), (3, 1) and their sum, for 1/2 < u < 2/3: −1 + 3 ≠ 4."""
        seed = next(seed for seed in range(99) if 0.5 < np.random.default_rng(seed).random() < 2 / 3)
        found = [
            mojd.graddrop([[a], [-b]], seed=seed).item() for a, b in ((1.0, 1.0), (3.0, 1.0), (4.0, 2.0))
        ]
        assert found == [-1.0, 3.0, 4.0]

    def test_it_is_no_combination_of_gradients(self) -> None:
        """[1, −1] and its opposite span one line, which (1, 1) is not on."""
        found = {tuple(mojd.graddrop([[1.0, -1.0], [-1.0, 1.0]], seed=seed).tolist()) for seed in range(30)}
        assert found == {(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)}

    @given(exponent=st.integers(-900, 900), seed=st.integers(0, 2**32 - 1))
    def test_a_common_power_of_two_comes_out(self, exponent: int, seed: int) -> None:
        rows = np.random.default_rng(seed).standard_normal((4, 5))
        expected = 2.0**exponent * mojd.graddrop(rows, seed=seed)
        assert np.array_equal(mojd.graddrop(2.0**exponent * rows, seed=seed), expected)


class TestArguments:
    def test_leaks_of_a_batch(self) -> None:
        rows = np.random.default_rng(0).standard_normal((3, 2, 5))
        leak = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
        directions = mojd.graddrop(rows, leak, seed=0)
        np.testing.assert_allclose(directions[1], rows[1].sum(axis=0), rtol=1e-13)
        many = mojd.graddrop(rows[0], leak, seed=0)
        assert many.shape == (3, 5)
        np.testing.assert_allclose(many[1], rows[0].sum(axis=0), rtol=1e-13)

    def test_leaks_beside_arrays_of_other_kinds(self) -> None:
        xp = pytest.importorskip("array_api_strict")
        there = xp.asarray(EXAMPLE, device=xp.Device("device1"))
        for leak in ([0.25, 0.5], xp.asarray([0.25, 0.5], device=there.device)):
            direction = mojd.graddrop(there, leak, seed=3)
            assert direction.device == there.device
            on_host = np.from_dlpack(xp.asarray(direction, device=xp.Device("CPU_DEVICE")))
            assert on_host.tolist() == mojd.graddrop(EXAMPLE, [0.25, 0.5], seed=3).tolist()

    @pytest.mark.parametrize(
        ("leak", "message"),
        [
            ([0.5], r"leak must have shape \(\.\.\., 2\).*\(1,\)"),
            (0.5, r"leak must have shape \(\.\.\., 2\)"),
            ([0.5, 1.5], r"leak must lie in \[0, 1\], got 1.5"),
            ([-0.5, 0.5], r"leak .*negative entry -0.5 at index \(0,\)"),
            ([np.nan, 0.5], r"leak of shape \(2,\) holds nan"),
            (np.zeros((3, 2)), r"jacobian and leak.*\(2,\) against \(3,\)"),
        ],
    )
    def test_bad_leaks(self, leak: Any, message: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            mojd.graddrop([EXAMPLE, EXAMPLE], leak, seed=0)
