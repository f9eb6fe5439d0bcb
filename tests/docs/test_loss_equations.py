"""docs/loss.md says what the code does: its equations alone give the code's loss and gradients; its table names things.

Variables have the symbols of the page, numbers in comments are its equations.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from influencerformer.losses import MaskInfluencerLoss, influencer_loss, mask_influencer_loss
from influencerformer.losses.transport import partial_transport

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "loss.md").read_text()
W_M, W_D, W_C, W_O, W_CO, W_NO = 5.0, 5.0, 2.0, 2.0, 3.0, 0.1
W_A, W_R, W_B, MU, TAU, EPS = 1.3, 0.7, 0.4, 0.1, 0.2, 0.1
WEIGHTS = {"attr_weight": W_A, "rep_weight": W_R, "bg_weight": W_B, "rep_margin": MU, "temperature": TAU}


class Equations:
    """The page's quantities for one image; ``labels`` of -1 are ignored."""

    def __init__(self, s: Tensor, c: Tensor, o: Tensor, labels: Tensor, y: Tensor) -> None:
        self.s, self.o, self.labels, self.y = s, o, labels, y
        self.Q, self.K = len(s), len(y)
        self.M = [labels == k + 1 for k in range(self.K)]
        self.F, self.G = labels > 0, labels == 0
        self.n = (labels >= 0).sum()
        self.size = torch.stack([m.sum() for m in self.M])
        self.condensation()
        self.potentials(c.softmax(1))
        self.claims()
        self.targets(c.softmax(1))

    def condensation(self) -> None:
        v = self.s - self.s.mean(0)
        self.rho = (v.square().sum(0) + EPS**2) ** -0.5
        self.e = self.rho * v  # (2)
        self.mean = torch.stack([self.e[:, m].mean(1) for m in self.M], 1)
        self.length = self.mean.norm(dim=0)
        self.m = self.mean / self.length
        self.A = 1 - self.length  # (3)
        self.cos = self.m.T @ self.e
        self.r = torch.zeros(self.K, self.K, dtype=self.s.dtype)
        for k in range(self.K):
            for other in set(range(self.K)) - {k}:
                self.r[k, other] = (self.cos[other, self.M[k]] - MU).clamp(min=0).mean()
        self.R = (self.r**4).sum(1) ** 0.25  # (4)
        self.L_a = (self.A + self.R).sum() / self.K

    def potentials(self, p: Tensor) -> None:
        s, sigma = self.s, self.s.sigmoid()
        pixel = [
            W_A * softplus(-s[:, m]).sum(1)
            + W_R * softplus(s[:, self.F & ~m]).sum(1)
            + W_B * softplus(s[:, self.G]).sum(1)
            for m in self.M
        ]
        self.pixel = torch.stack(pixel, 1) / self.n  # (6)
        self.H = torch.stack([sigma[:, m].sum(1) for m in self.M], 1)
        self.U = sigma[:, self.F | self.G].sum(1, keepdim=True) + self.size + 1
        self.overlap = 1 - (2 * self.H + 1) / self.U  # (7)
        self.B = W_M * self.pixel + W_D * self.overlap
        self.D = self.B + W_C * (1 - p[:, self.y])  # (8)
        self.D_no = W_C * W_NO * (1 - p[:, -1])

    def claims(self) -> None:
        g = torch.zeros(self.K, dtype=self.s.dtype)
        for _ in range(10):  # (10)
            f = -TAU * torch.log((-self.D_no / TAU).exp() + ((g - self.D) / TAU).exp().sum(1))
            g = -TAU * torch.log(((f[:, None] - self.D) / TAU).exp().sum(0))
        self.P = ((f[:, None] + g - self.D) / TAU).exp()
        self.L_b = (self.P * self.B).sum() / self.K  # (11)

    def targets(self, p: Tensor) -> None:
        self.p = p
        self.omega = torch.ones(p.shape[1], dtype=p.dtype)
        self.omega[-1] = W_NO
        scaled = self.P / self.P.sum(1, keepdim=True).clamp(min=1)
        claimed = scaled.sum(1)
        self.t = torch.zeros_like(p)
        for k, category in enumerate(self.y.tolist()):
            self.t[:, category] += scaled[:, k]
        self.t[:, -1] = 1 - claimed
        self.W = (self.omega * self.t).sum()
        self.L_c = -(self.omega * self.t * p.log()).sum() / self.W  # (12)
        self.iou = self.H / (self.U - 1 - self.H)
        self.beta = claimed + W_NO * (1 - claimed)
        self.missing = self.o - (scaled * self.iou).sum(1)
        self.L_o = (self.beta * self.missing**2).sum() / self.beta.sum()  # (13)

    def loss(self) -> Tensor:
        return W_CO * self.L_a + self.L_b + W_C * self.L_c + W_O * self.L_o  # (1)

    def mask_gradient(self) -> Tensor:
        return self.claim_gradient() + W_CO * self.condensation_gradient()

    def claim_gradient(self) -> Tensor:
        K, n, P, U = self.K, self.n, self.P, self.U
        by_s, by_z = -W_M * W_A / (n * K) * P, W_M * (W_A - W_R) / (n * K) * P  # (16)
        by_z_all = W_M / (n * K) * P.sum(1, keepdim=True)
        by_h, by_t = -2 * W_D / K * P / U, W_D / K * (P * (2 * self.H + 1) / U**2).sum(1, keepdim=True)
        members = torch.stack(self.M).to(P.dtype)
        sigma, weight = self.s.sigmoid(), W_R * self.F + W_B * self.G
        inner = by_z @ members + weight * by_z_all + (1 - sigma) * (by_h @ members + by_t)
        return (by_s @ members + sigma * inner) * (self.labels >= 0)  # (15)

    def condensation_gradient(self) -> Tensor:
        gamma = torch.zeros_like(self.s)
        for k, members in enumerate(self.M):  # (19)
            of_k = -self.m[:, k : k + 1].expand(-1, self.s.shape[1]).clone()
            for other in set(range(self.K)) - {k}:
                if self.r[k, other] > 0:
                    of_k += (self.r[k, other] / self.R[k]) ** 3 * (self.cos[other] > MU) * self.m[:, other : other + 1]
                if self.r[other, k] > 0:
                    near = self.M[other] & (self.cos[k] > MU)
                    part = self.e[:, near].sum(1) / self.size[other]
                    part = (part - self.m[:, k] * (self.m[:, k] @ part)) / self.length[k]
                    of_k += (self.r[other, k] / self.R[other]) ** 3 * part[:, None]
            gamma[:, members] += of_k[:, members] / self.size[k]
        return self.rho * (gamma - self.e * (self.e * gamma).sum(0)) / self.K  # (20)

    def class_gradient(self) -> Tensor:
        weighted = self.omega * self.t
        return W_C * (self.p * weighted.sum(1, keepdim=True) - weighted) / self.W  # (18)

    def objectness_gradient(self) -> Tensor:
        return W_O * 2 * self.beta * self.missing / self.beta.sum()  # (18)


@pytest.mark.parametrize("seed", range(3))
def test_equations_give_the_value_and_the_gradients_of_the_code(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    s = 2 * torch.randn(6, 40, generator=generator, dtype=torch.float64)
    c = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    o = torch.rand(6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (40,), generator=generator)
    labels[:2], labels[2:5] = -1, torch.arange(1, 4)
    y = torch.tensor([0, 1, 1])
    page = Equations(s, c, o, labels, y)
    assert page.R.max() > 0

    masks, classes, scores = (values.clone().requires_grad_() for values in (s, c, o))
    result = mask_influencer_loss(masks, labels, classes, y, objectness=scores, **WEIGHTS)
    result["loss"].backward()
    torch.testing.assert_close(page.loss(), result["loss"].detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(page.mask_gradient(), masks.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(page.class_gradient(), classes.grad)
    torch.testing.assert_close(page.objectness_gradient(), scores.grad)


def test_a_crowd_repels_by_mean_directions_and_its_nearest_prototypes() -> None:
    """(5): 70 instances of three pixels each."""
    s = torch.randn(8, 210, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(1, 71).repeat_interleave(3)
    v = s - s.mean(0)
    mean = (v * (v.square().sum(0) + EPS**2) ** -0.5).reshape(8, 70, 3).mean(2)
    m = mean / mean.norm(dim=0)
    own = torch.eye(70, dtype=torch.bool)
    near = (m.T @ m).masked_fill(own, -torch.inf).topk(16).indices
    r = (mean.T @ m - MU).clamp(min=0).gather(1, near)
    expected = W_CO * (r**4).sum(1).pow(0.25).mean()
    torch.testing.assert_close(mask_influencer_loss(s, labels, rep_margin=MU)["repulsion"], expected)


def test_claims_are_the_gradient_of_the_transport_energy() -> None:
    """(9) and (17), by differences."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(3, 2, generator=generator, dtype=torch.float64)
    none = torch.zeros(3, dtype=torch.float64)

    def solved(cost: Tensor) -> tuple[Tensor, Tensor]:
        claims = partial_transport(cost, none, torch.ones(2, dtype=torch.bool), TAU, iterations=300)
        shares = torch.cat([claims, 1 - claims.sum(1, keepdim=True)], 1)
        return (claims * cost).sum() + TAU * (shares * (shares.log() - 1)).sum(), claims

    claims, step = solved(cost)[1], 1e-5
    for q in range(3):
        for k in range(2):
            change = torch.zeros_like(cost)
            change[q, k] = step
            slope = (solved(cost + change)[0] - solved(cost - change)[0]) / (2 * step)
            assert slope == pytest.approx(claims[q, k].item(), abs=1e-7)


def test_one_projection_is_a_softmin_of_queries_shared_out_by_instances() -> None:
    cost, none = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    share = torch.cat([cost, none[:, None]], 1).div(-TAU).softmax(1)[:, :-1]
    claims = partial_transport(cost, none, torch.ones(3, dtype=torch.bool), TAU, iterations=1)
    torch.testing.assert_close(claims, share / share.sum(0))


def test_gradient_of_the_embedding_loss_is_the_closed_form() -> None:
    """(22) and (24)."""
    generator = torch.Generator().manual_seed(0)
    f, g = (torch.randn(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    m_f, moved = 1.5, g.clone().requires_grad_()
    weights = {"rep_weight": 0.0, "influencer_weight": 0.0, "rep_margin": m_f}
    result = influencer_loss(f, moved, torch.ones(5, dtype=torch.long), **weights)
    result["loss"].backward()
    a = (f[:, None] - g[None]).square().sum(-1).mean(0) / m_f**2 + 1e-6
    mean = a.log().mean().exp()
    torch.testing.assert_close(result["attraction"], mean)
    torch.testing.assert_close(moved.grad, (mean / 5 / a)[:, None] * 2 / m_f**2 * (g - f.mean(0)))


def test_table_names_what_is_in_the_code() -> None:
    rows = re.findall(r"^\| (\(|inference)(.*?)\| (\[.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 15
    for _, _, files, names in rows:
        code = "".join((ROOT / "docs" / path).read_text() for path in re.findall(r"\]\((.*?)\)", files))
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"(def|class) {name}\b|^{name} =|\b{name} =|\"{name}\":", code, re.MULTILINE), name


def test_every_numbered_equation_is_in_the_table() -> None:
    numbers = re.findall(r"\\tag\{(\d+)\}", PAGE)
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    table = PAGE[PAGE.index("## Where each equation is in the code") :]
    assert {n for n in numbers if f"({n})" not in table} == set()


def test_parameters_and_defaults_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("## Parameters") : PAGE.index("## Cost")]
    signature = inspect.signature(mask_influencer_loss).parameters | inspect.signature(MaskInfluencerLoss).parameters
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE))))
    assert named == set(signature) - {"mask_logits", "class_logits", "class_labels"}
    for name, default in re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\| ([\d.][\d. ]*) \|", table, re.MULTILINE):
        assert signature[name].default == float(default.replace(" ", "")), name
