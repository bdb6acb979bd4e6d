"""The catalogue: every registered estimator keeps the protocol; parameters, registry, entry points, the layer."""

import dataclasses
import inspect

import pytest
import torch
from scipy import stats

import gradlab
from gradlab import estimators
from gradlab.estimators import (
    Constant,
    Estimator,
    FunctionOfCode,
    LeaveOneOut,
    NoiseIntegral,
    PullBack,
    Relaxation,
    RunningMean,
    SharedPoints,
    conformance,
    parameters,
    registry,
)
from gradlab.estimators.conformance import KINDS, violations
from gradlab.estimators.gumbel_rao import GumbelRao
from gradlab.latents import BINARY, CATEGORICAL

NAMES = estimators.names()
VARIANTS = [
    "reinforce:baseline=running-mean",
    "rloo:n=4",
    "st-gs:convention=jang",
    "gumbel-rao:k=1",
    "gst:gap=0.3",
    "gst:mode=probability",
    "rebar:eta=0.6,lam=1.7",
    "arms:n=3",
    "arms:n=7",
]
ALL = [*NAMES, *VARIANTS]  # as estimators.parse reads them
CASES = [(text, kind) for text in ALL for kind in estimators.parse(text).kinds]
BOTH_KINDS = [text for text in ALL if estimators.parse(text).kinds == ("categorical", "binary")]


# --- the protocol ---


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_every_estimator_keeps_the_protocol(text, kind):
    assert violations(estimators.parse(text).at(1.6, 0.7), KINDS[kind]) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [case if case[0] in ("st-gs", "gumbel-rao") else pytest.param(*case, marks=pytest.mark.deep) for case in CASES],
)
def test_every_estimator_keeps_the_protocol_at_equal_temperatures(text, kind):
    """Where points and relaxations of different estimators coincide."""
    assert violations(estimators.parse(text), KINDS[kind]) == []


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_temperatures_as_tensors_are_those_of_each_model(text, kind):
    """Three models at once, each with temperatures of its own, as one at a time: bit for bit but for vectorisation."""
    generator = torch.Generator().manual_seed(3)
    own, latent = KINDS[kind], (4, 3) if kind == "categorical" else (4,)
    estimator, tfs, tbs = estimators.parse(text), [0.4, 1.0, 2.3], [1.7, 0.6, 1.0]
    logits = torch.randn(3, 5, *latent, generator=generator, dtype=torch.float64)
    noise = own.noise((estimator.noise_arrays, *logits.shape), dtype=torch.float64, device="cpu", generator=generator)
    of_models = [torch.tensor(t, dtype=torch.float64).reshape(3, *[1] * (logits.ndim - 1)) for t in (tfs, tbs)]

    def results(estimator, logits, noise):
        points = estimator.points(own, logits, noise)
        weights = estimator.weights(own, logits, points)
        loss = torch.sin(points.flatten(-own.event_dims - 1).sum(-1)) + points.flatten(-own.event_dims - 1)[..., 0]
        found = estimator.estimate(own, logits, noise, points, loss, torch.cos(points))
        return [points, torch.ones_like(loss) if weights is None else weights, found[None]]

    together = results(estimator.at(*of_models), logits, noise)
    for i, (tf, tb) in enumerate(zip(tfs, tbs, strict=True)):
        alone = results(estimator.at(tf, tb), logits[i], noise[:, i])
        for several, one in zip(together, alone, strict=True):
            torch.testing.assert_close(several[:, i], one, rtol=1e-12, atol=1e-12)


def test_a_learned_temperature_is_refused_and_a_single_number_stays_one():
    assert estimators.get("st-gs", tf=torch.tensor(1.5)).tf == 1.5
    with pytest.raises(ValueError, match="tf: "):
        estimators.get("st-gs", tf=torch.ones(3, 1, 1, 1, requires_grad=True))


def sound(**overrides):
    """An estimator that keeps the protocol, but for `overrides`."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Tested(Relaxation):
        name, kinds = "tested", ("categorical", "binary")

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return kind.pullback(kind.soft(logits / self.tb), derivative[0]) / self.tb

    for key, value in overrides.items():
        setattr(Tested, key, value)
    return Tested()


def mutant(change, **overrides):
    """The sound estimator with its estimate passed through change(estimate, logits, noise, loss)."""
    plain = type(sound()).estimate

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return change(plain(self, kind, logits, noise, points, loss, derivative), logits, noise, loss)

    return sound(estimate=estimate, **overrides)


def fail(*arguments):
    raise RuntimeError("what went wrong")


MUTANTS = {
    "shapes and dtype: estimate are (3, 3)": mutant(lambda e, l, g, f: e.sum(0)),
    "shapes and dtype: estimate are (2, 3, 3) torch.float64": mutant(lambda e, l, g, f: e.double()),
    "shapes and dtype: points": sound(points=lambda s, kind, l, g: kind.hard(l + g[0])),
    "shapes and dtype: weights sum": sound(weights=lambda s, kind, l, points: 2 * points.sum((-1, -2)) / 3),
    "shapes and dtype: RuntimeError: what went wrong": sound(estimate=fail),
    "pure functions: noise are": mutant(lambda e, l, g, f: e + 0 * g.mul_(2)[0]),
    "pure functions: loss are": mutant(lambda e, l, g, f: e + 0 * f.mul_(2)[0, ..., None, None]),
    "pure functions: equal inputs": mutant(lambda e, l, g, f: e * torch.rand(1, dtype=e.dtype), noise_arrays=1),
    "pure functions: the global random state": mutant(lambda e, l, g, f: e + 0 * torch.rand(1, dtype=e.dtype)),
    "points: codes is False": sound(shared_points=SharedPoints("own", codes=False)),
    "points: points leave": sound(points=lambda s, kind, l, g: 2 * kind.hard(l + g[0])[None]),
    "depends on the other draws": mutant(lambda e, l, g, f: e - (e.mean(0) if e.ndim > 3 else 0)),
    "depends on the other examples": mutant(lambda e, l, g, f: e * f[0].mean(-1)[..., None, None, None]),
    "points depend on the other examples": sound(points=lambda s, kind, l, g: kind.hard(l.mean(0) + g[:1])),
    "order of latents": mutant(lambda e, l, g, f: e * torch.arange(3).to(e)[:, None]),
    "float32": mutant(lambda e, l, g, f: (e + 1e5) - 1e5),
    "saturated logits": mutant(lambda e, l, g, f: e * (1 + 0 * torch.softmax(l, -1).log())),
    "function of the code: FunctionOfCode, but the estimate": mutant(
        lambda e, l, g, f: e * g[0].exp(), exact_moments=FunctionOfCode()
    ),
    "function of the code: FunctionOfCode, but the point": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), exact_moments=FunctionOfCode()
    ),
    "no noise: Constant": sound(exact_moments=Constant()),
    "first sample: sample_first": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), shared_points=SharedPoints("own", sample_first=True)
    ),
    "pull-back: pull_back, but the estimate": sound(
        pull_back=property(lambda s: PullBack(s.noisy, 1 / s.tb, s.tb)), noisy=lambda s, k, l, g: l / s.tb + g[0]
    ),
    "pull-back: the key of pull_back is equal at another tf": sound(
        pull_back=property(lambda s: PullBack(s.tempered, 1.0, s.tb)),
        tempered=lambda s, k, l, g: l / s.tf,
        estimate=lambda s, k, l, g, p, f, v: k.pullback(k.soft(l / s.tf), v[0]),
    ),
    "all configurations: all_configurations": sound(shared_points=SharedPoints("all", all_configurations=True)),
    "leave one out: LeaveOneOut, but the points": sound(exact_moments=LeaveOneOut(2)),
    "leave one out: LeaveOneOut, but the estimate": sound(
        points=lambda s, k, l, g: k.hard(l / s.tf + g[:2]),
        estimate=lambda s, k, l, g, p, f, v: (f[0] - f[1])[..., None, None] * (p[0] - p[1]) / s.tf,  # twice as large
        exact_moments=LeaveOneOut(2),
    ),
    "noise integral: NoiseIntegral, but the estimate is not": sound(exact_moments=NoiseIntegral(1.0, power=1.0)),
    "noise integral: NoiseIntegral, but the point": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), exact_moments=NoiseIntegral(1.0, power=1.0)
    ),
    "noise integral: NoiseIntegral, but the estimate is not 1/draws sum_i (1/tb) J(softmax(l/tb + power g_i)) v in": (
        sound(
            estimate=lambda s, k, l, g, p, f, v: GumbelRao(k=3).estimate(k, l, g, p, f, v),
            exact_moments=NoiseIntegral(1.0, power=1.0, draws=4),
        )
    ),
    "temperatures as tensors: ": sound(estimate=lambda s, k, l, g, p, f, v: v[0] / float(s.tb)),
    "temperatures as tensors: the two": sound(
        estimate=lambda s, k, l, g, p, f, v: k.pullback(k.soft(l / s.tb), v[0]) / torch.as_tensor(s.tb).mean()
    ),
    "noise arrays: noise_arrays is 1": mutant(lambda e, l, g, f: e * (1 + g[1:].sum(0)), noise_arrays=1),
    "shared points: keys are": sound(points=lambda s, kind, l, g: kind.hard(l / s.tb + g[:1])),
    "sampling routes: route pairs, alone, off by": sound(exact_moments=Constant()),
}


@pytest.mark.parametrize("words", MUTANTS)
def test_what_does_not_keep_the_protocol_is_found(words, monkeypatch):
    """By the rule that it breaks; of all rules where the words name none."""
    rule = words.split(":")[0]
    rules = {rule: conformance._PROTOCOL[rule]} if rule in conformance._PROTOCOL else conformance._PROTOCOL
    monkeypatch.setattr(conformance, "_PROTOCOL", rules)
    found = violations(MUTANTS[words], CATEGORICAL)
    assert any(words in text for text in found), found


def test_the_estimator_that_mutants_are_made_of_is_sound():
    assert violations(sound(), CATEGORICAL) == violations(sound(), BINARY) == []
    assert violations(mutant(lambda e, l, g, f: e), CATEGORICAL) == []


def test_every_rule_of_the_protocol_has_a_mutant():
    rules = {words.split(":")[0] for words in MUTANTS}
    assert set(conformance._PROTOCOL) - rules == {"draws and examples"}  # told apart by what follows the rule


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_no_tensor_is_made_on_another_device(text, kind):
    """On the meta device, which refuses company."""
    estimator, problem = (
        estimators.parse(text),
        conformance.PROBLEMS[{"binary": "binary-4"}.get(kind, "categorical-3x3")],
    )
    logits = problem.logits.to("meta")
    noise = torch.empty(estimator.noise_arrays, 5, *logits.shape, device="meta", dtype=logits.dtype)
    points = estimator.points(problem.kind, logits, noise)
    loss = points.new_empty(points.shape[:3])
    weights = estimator.weights(problem.kind, logits, points)
    found = estimator.estimate(problem.kind, logits, noise, points, loss, torch.empty_like(points))
    assert {points.device.type, found.device.type, (points if weights is None else weights).device.type} == {"meta"}


@pytest.mark.parametrize("text", ["reinforce", "reinforce:baseline=running-mean", "rloo:n=3", "disarm", "arms:n=3"])
def test_a_constant_loss_gives_no_gradient_in_the_mean(text):
    """Those with a baseline give none at all."""
    estimator = estimators.parse(text)
    problem = conformance.PROBLEMS["binary-4"]
    noise = BINARY.noise((estimator.noise_arrays, 50, 2, 4), dtype=torch.float64, generator=seeded(0))
    points = estimator.points(BINARY, problem.logits, noise)
    loss = torch.full(points.shape[:3], 3.0, dtype=torch.float64)
    mean = RunningMean(0.9) if estimator.baseline_decay else None
    loss = mean.centre(loss) if mean else loss
    found = estimator.estimate(BINARY, problem.logits, noise, points, loss, None)
    first = 1 if mean else 50 if text == "reinforce" else 0
    assert float(found[first:].abs().max() if first < 50 else 0) < 1e-12
    assert first == 0 or float(found[:first].abs().max()) > 1


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("text", BOTH_KINDS)
def test_binary_is_the_categorical_pair(text):
    """One logit l with logistic noise g0 - g1 is the pair (l, 0) with Gumbel noise (g0, g1)."""
    estimator = estimators.parse(text).at(1.6, 1.3)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    pair = torch.stack([logits, torch.zeros_like(logits)], -1)
    noise = CATEGORICAL.noise((estimator.noise_arrays, 7, 3, 5, 2), dtype=torch.float64, generator=generator)
    as_unit = noise[..., 0] - noise[..., 1]
    of_pair, of_unit = estimator.points(CATEGORICAL, pair, noise), estimator.points(BINARY, logits, as_unit)
    torch.testing.assert_close(of_pair[..., 0], of_unit, rtol=0, atol=1e-12)
    loss, v = torch.sin(of_unit.sum(-1)), torch.cos(of_unit + torch.arange(5))
    pair_v = torch.stack([v, torch.zeros_like(v)], -1)
    a = estimator.estimate(CATEGORICAL, pair, noise, of_pair, loss, pair_v)[..., 0]
    b = estimator.estimate(BINARY, logits, as_unit, of_unit, loss, v)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


# --- parameters ---


def test_backward_temperature_defaults_to_the_forward_one():
    assert estimators.get("st-gs", tf=0.7).tb == 0.7
    assert estimators.get("st-gs", tb=0.7).tf == 1.0
    assert estimators.get("st-gs").tb == 1.0


RANGES = {
    ("reinforce", "baseline"): ["mean", 1],
    ("reinforce", "decay"): [1.0, -0.1, float("nan"), "0.9", True],
    ("rloo", "n"): [1, 0, 2.5, "2", True],
    ("arms", "n"): [1, 2.5],
    ("gumbel-rao", "k"): [0, 1.5, None],
    ("gst", "mode"): ["prob", None],
    ("gst", "gap"): [-0.1, float("inf"), "wide"],
    ("rebar", "eta"): [float("inf"), float("nan"), "1"],
    ("rebar", "lam"): [0.0, -1.0, float("nan")],
    ("st-gs", "convention"): ["papr"],
    ("ste-identity", "clip"): [0, -1.0, float("inf"), float("nan"), True, "1x", None],
    ("mve", "tau"): [-0.1, float("inf"), float("nan"), "1"],
    ("reinmax-rao", "k"): [0, 1.5, None],
    ("reinmax-cv", "k"): [0, 1.5, None],
    ("reinmax-cv", "eta"): [float("inf"), float("nan"), "1"],
}


@pytest.mark.parametrize(("name", "parameter"), RANGES)
def test_parameters_out_of_range_are_refused_by_name(name, parameter):
    for bad in RANGES[name, parameter]:
        with pytest.raises(ValueError, match=f"^{parameter}: "):
            estimators.get(name, **{parameter: bad})


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_says_what_it_takes_and_refuses_what_is_none(name):
    cls = estimators.find(name)
    assert {f.name for f in dataclasses.fields(cls)} - {"tf", "tb"} == {p for n, p in RANGES if n == name}
    for field in dataclasses.fields(cls):
        assert parameters.allowed(field).words
        with pytest.raises(ValueError, match=f"^{field.name}: "):
            estimators.get(name, **{field.name: object()})


def test_whole_numbers_and_reals_come_out_as_such():
    assert isinstance(estimators.get("rloo", n=3.0).n, int)
    assert isinstance(estimators.get("rebar", eta=1).eta, float)
    assert estimators.get("rloo", n=3) == estimators.get("rloo", n=3.0)


def test_describe_tells_all_as_plain_values():
    import json

    rows = {row["name"]: row for row in estimators.describe()}
    assert sorted(rows) == NAMES
    json.dumps(rows)
    for name, row in rows.items():
        cls = estimators.find(name)
        assert set(row["ranges"]) == set(row["parameters"]) == {f.name for f in dataclasses.fields(cls)}
        assert all(row["ranges"].values())
        assert row["code_only"] is estimators.get(name).code_only
        assert row["formula"]
        assert row["reference"]
    assert rows["gst"]["parameters"] == {"tf": 1.0, "tb": "tf", "mode": "fixed", "gap": 1.0}
    assert rows["gst"]["ranges"]["gap"] == "finite, at least 0"
    assert rows["reinforce"]["ranges"]["decay"] == "at least 0, below 1"
    assert rows["exact"]["evaluations"] == "all configurations"
    assert (rows["rebar"]["evaluations"], rows["rebar"]["noise_arrays"]) == (3, 2)
    assert {name for name, row in rows.items() if row["unbiased"]} == {
        "reinforce", "rloo", "rebar", "disarm", "arms", "exact", "leg"
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["latents"] == ["binary"]} == {"disarm", "arms"}
    assert rows["leg"]["evaluations"] == "by size"


def test_code_only_follows_the_baseline():
    assert estimators.get("reinforce").code_only
    assert not estimators.get("reinforce", baseline="running-mean").code_only
    code_only = {name for name in NAMES if estimators.get(name).code_only}
    assert code_only == {"reinforce", "ste", "ste-identity", "reinmax", "zgr", "gst", "mve"}


def test_what_needs_no_noise_says_so():
    assert {name for name in NAMES if estimators.get(name).noise_free} == {"exact", "ste-argmax"}
    assert {name for name in NAMES if estimators.get(name).all_configurations} == {"exact"}


def test_labels_name_what_is_not_default():
    assert estimators.get("rloo", n=4, tf=0.5).label == "rloo(n=4)"
    assert estimators.get("reinforce", baseline="running-mean").label == "reinforce(baseline=running-mean)"
    assert len({estimators.parse(text).label for text in ALL}) == len(ALL)


def test_points_are_shared_only_by_those_that_evaluate_the_same():
    by_key = {}
    for text in ALL:
        by_key.setdefault(estimators.parse(text).at(0.7, 0.7).points_key, []).append(text)
    shared = next(texts for texts in by_key.values() if "ste" in texts)
    assert {"reinforce", "reinforce:baseline=running-mean", "reinmax", "zgr", "gst", "gumbel-rao", "st-gs"} <= set(
        shared
    )
    assert all(len(texts) == 1 for texts in by_key.values() if texts is not shared)


def test_exact_refuses_large_spaces_with_their_size():
    exact = estimators.get("exact")
    with pytest.raises(
        gradlab.errors.SpaceTooLarge,
        match=r"at most 16,384 configurations for exact, got 2\^15 = 3.277e\+04; use rloo",
    ):
        exact.points(BINARY, torch.zeros(1, 15), torch.zeros(1, 2, 1, 15))
    assert exact.evaluations_at(BINARY, torch.zeros(1, 14)) == 2**14
    assert exact.evaluations_at(CATEGORICAL, torch.zeros(9, 4, 8)) == 8**4
    assert estimators.get("rloo", n=5).evaluations_at(CATEGORICAL, torch.zeros(9, 40, 8)) == 5


# --- registry ---


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "warm", None, True])
@pytest.mark.parametrize("name", NAMES)
def test_bad_temperatures_are_refused(name, bad):
    with pytest.raises(ValueError, match="tf: expected a finite number above 0, got"):
        estimators.get(name, tf=bad)


@pytest.mark.parametrize("bad", [None, 3, ["ste"]])
def test_names_that_are_no_text_are_refused(bad):
    for look_up in (estimators.get, estimators.find, estimators.parse):
        with pytest.raises(ValueError, match="estimator: unknown name"):
            look_up(bad)


def test_unknown_names_and_parameters_give_near_matches():
    with pytest.raises(ValueError, match="decoupled-st-gs"):
        estimators.get("decoupled-stgs")
    with pytest.raises(ValueError, match="convention"):
        estimators.get("st-gs", convetion="jang")
    with pytest.raises(ValueError, match="paper"):
        estimators.get("st-gs", convention="papr")


def test_parse_reads_the_command_lines_form():
    assert estimators.parse("st-gs:convention=jang,tb=0.5") == estimators.get("st-gs", convention="jang", tb=0.5)
    with pytest.raises(ValueError, match="key=value"):
        estimators.parse("st-gs:jang")


def test_a_name_can_be_registered_and_not_taken_twice():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halved(Relaxation):
        name = "test-halved"
        formula = "v / 2"
        reference = "none"

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return derivative[0] / 2

    try:
        estimators.register(Halved)
        assert estimators.get("test-halved", tb=2.0).tb == 2.0
        taken = dataclasses.make_dataclass("Other", [], bases=(Halved,), frozen=True, kw_only=True)
        with pytest.raises(ValueError, match="taken"):
            estimators.register(taken)
    finally:
        registry._CLASSES.pop("test-halved", None)


@pytest.mark.parametrize("bad", [3, dict, Estimator])
def test_only_estimators_can_be_registered(bad):
    with pytest.raises(ValueError, match=r"cls: expected|expected a name|expected a default"):
        estimators.register(bad)
    assert estimators.names() == NAMES


def test_register_refuses_what_cannot_be_listed():
    abstract = dataclasses.make_dataclass("Abstract", [], bases=(Estimator,), frozen=True, kw_only=True)
    with pytest.raises(ValueError, match="Abstract: expected a name"):
        estimators.register(abstract)
    abstract.name = "test-abstract"
    with pytest.raises(ValueError, match=r"Abstract: expected a default for every parameter, got .*estimate"):
        estimators.register(abstract)
    assert estimators.names() == NAMES


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package `foreign` with three entry points: one good, one broken, one misnamed."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    monkeypatch.setattr(registry, "_BROKEN", {})
    monkeypatch.setattr(registry, "_looked_up", False)
    source = inspect.cleandoc(
        """
        import dataclasses
        from gradlab.estimators import Estimator, parameters

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Scaled(Estimator):
            factor: float = parameters.real(2.0)
            name, formula, reference = "foreign-scaled", "factor v(z)", "none"

            def estimate(self, kind, logits, noise, points, loss, derivative):
                return self.factor * derivative[0]
        """
    )
    (tmp_path / "foreign_estimators.py").write_text(source)
    (tmp_path / "foreign_broken.py").write_text("import no_such_module")
    about = tmp_path / "foreign-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[gradlab.estimators]\n"
        "foreign-scaled = foreign_estimators:Scaled\n"
        "foreign-broken = foreign_broken:Broken\n"
        "foreign-other = foreign_estimators:Scaled\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_entry_points_are_found_when_asked_for():
    assert "foreign-scaled" not in registry._CLASSES  # not before
    assert estimators.get("foreign-scaled", factor=3.0).factor == 3.0
    assert estimators.names() == sorted([*NAMES, "foreign-scaled"])
    row = next(row for row in estimators.describe() if row["name"] == "foreign-scaled")
    assert row["ranges"]["factor"] == "finite"


@pytest.mark.usefixtures("installed")
def test_a_broken_entry_point_breaks_nothing_and_is_reported_by_name():
    assert estimators.names() == sorted([*NAMES, "foreign-scaled"])
    with pytest.raises(ValueError, match=r"entry point that can be loaded, got 'foreign-broken' .*no_such_module"):
        estimators.get("foreign-broken")
    with pytest.raises(ValueError, match=r"foreign-other.*is called 'foreign-scaled'"):
        estimators.get("foreign-other")
    with pytest.raises(ValueError, match="did you mean foreign-scaled"):
        estimators.get("foreign-scale")


# --- noise and codes ---


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY])
def test_noise_has_the_standard_law(kind):
    """Kolmogorov-Smirnov at 200,000 numbers; fixed seed, failure rate 1e-4 over seeds. Scaled by 1.02 it is found."""
    noise = kind.noise((200_000,), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    law = stats.gumbel_r if kind is CATEGORICAL else stats.logistic
    assert stats.kstest(noise, law.cdf).pvalue > 1e-4
    assert stats.kstest(1.02 * noise, law.cdf).pvalue < 1e-4


def test_codes_follow_the_tempered_law():
    """Frequencies of 200,000 draws within 5 standard errors of softmax(l/tf), and not of softmax(l)."""
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    noise = CATEGORICAL.noise((1, 200_000, 1, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = estimators.get("st-gs", tf=1.6).points(CATEGORICAL, logits, noise)[0].mean(0)[0]
    for tf, agrees in ((1.6, True), (1.0, False)):
        p = torch.softmax(logits[0] / tf, -1)
        assert bool((((found - p) / (p * (1 - p) / 200_000).sqrt()).abs() < 5).all()) == agrees


# --- the layer ---


class TestLayer:
    def test_values_are_exactly_one_hot_and_gradient_is_the_estimators(self):
        logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        z = gradlab.decoupled_st_gumbel_softmax(logits, tf=1.6, tb=1.3, generator=torch.Generator().manual_seed(5))
        assert set(z.unique().tolist()) == {0.0, 1.0}
        assert (z.sum(-1) == 1).all()
        v = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        (found,) = torch.autograd.grad((z * v).sum(), logits)
        noise = CATEGORICAL.noise(tuple(logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(5))
        estimator = estimators.get("decoupled-st-gs", tf=1.6, tb=1.3)
        plain = logits.detach()
        assert torch.equal(z, estimator.points(CATEGORICAL, plain, noise[None])[0])
        wanted = estimator.estimate(CATEGORICAL, plain, noise[None], z.detach()[None], None, v[None])
        torch.testing.assert_close(found, wanted)

    def test_drops_in_for_torch(self):
        """At tf = tb = 1 and the same noise: the same codes and the same gradient as torch's own."""
        logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        v = torch.arange(35.0).reshape(7, 5)
        found = []
        for layer in (
            lambda: torch.nn.functional.gumbel_softmax(logits, hard=True),
            lambda: gradlab.decoupled_st_gumbel_softmax(logits),
        ):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2)
                z = layer()
            found.append((z.detach().round(), torch.autograd.grad((z * v).sum(), logits)[0]))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[0][1], found[1][1])

    def test_a_generator_leaves_the_global_state_alone(self):
        before = torch.random.get_rng_state()
        gradlab.decoupled_st_gumbel_softmax(torch.zeros(3, 4), generator=torch.Generator().manual_seed(0))
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("bad", [{"tf": 0.0}, {"tb": -1.0}, {"tf": float("nan")}])
    def test_bad_temperatures(self, bad):
        with pytest.raises(ValueError, match=r"t[fb]: expected a finite number above 0, got"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(3), **bad)

    def test_integer_logits(self):
        with pytest.raises(ValueError, match="logits"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(3, dtype=torch.long))
