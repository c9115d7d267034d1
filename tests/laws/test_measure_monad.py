"""Laws 1 to 3: programs are measures, and every representation says so. Exact, by enumeration, in double precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

import ppl
import ppl.distributions as dist
from tests.laws import mutants
from tests.laws.exact import DEAD, added, double, gap, law_gap, ours, same, scaled, set_law  # noqa: F401
from tests.oracle.generate import SKELETONS, fillings, rows
from tests.oracle.render import to_program

few = settings(max_examples=8)
weights = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0])
tables = st.tuples(*[rows(2)] * 3, *[st.tuples(weights, weights)] * 3).map(
    lambda t: (np.array(t[:3], float), np.log(np.maximum(np.array(t[3:]), 1e-300)))
)
ROWS = np.array([[0.75, 0.25], [0.375, 0.625], [0.125, 0.875]])
SCORES = np.log(np.array([[0.5, 3.0], [2.0, 0.25], [1.5, 0.75]]))


@ppl.model
def start(table, scores):
    """A choice of three, scored."""
    x = ppl.sample("x", dist.Categorical(probs=jnp.array([0.5, 0.125, 0.375])))
    ppl.factor("s", scores[x, 0])
    return x + 0 * ppl.sample("more", dist.Bernoulli(table[x, 1]))


@ppl.model
def after(table, scores, x):
    """A flip whose law and score depend on the value before; remembers it."""
    y = ppl.sample("y", dist.Categorical(probs=table[x % 3]))
    ppl.factor("s", scores[x % 3, y])
    return 2 * x + y


def shift(x):
    return x + 5


def fold(x):
    return (3 * x) % 4


# --- 1: unit and associativity ----------------------------------------------------------------------------------------

AS = {
    "program": (ppl.Program, lambda p: p),
    "weighted": (ppl.Weighted, ppl.weighted),
    "population": (ppl.Population, partial(ppl.population, n=1)),
    "traced": (ppl.Traced, ppl.Traced),
    "finite": (ppl.FiniteMeasure, ppl.meaning),
}
"""Each representation with its class and the way to it from a program."""


def kernel_of(name, table, scores):
    return Partial(_kernel, name, jnp.asarray(table), jnp.asarray(scores))


def _kernel(name, table, scores, x):
    return AS[name][1](after(table, scores, x))


def then(bind, first, second, x):
    return bind(first(x), second)


def unit_gap(name, tables, bind=ppl.bind):
    """unit(x) >>= f against f(x), and a >>= unit against a."""
    kind, make = AS[name]
    kernel, x = kernel_of(name, *tables), jnp.array(2)
    program = make(start(*tables))
    left = gap(bind(ppl.unit(x, kind), kernel), kernel(x))
    return max(left, gap(bind(program, Partial(_unit, name)), program))


def _unit(name, x):
    return ppl.unit(x, AS[name][0])


def associativity_gap(name, tables, bind=ppl.bind):
    """(a >>= f) >>= g against a >>= (x -> f(x) >>= g)."""
    first, second = kernel_of(name, *tables), kernel_of(name, ROWS, SCORES)
    program = AS[name][1](start(*tables))
    return gap(bind(bind(program, first), second), bind(program, Partial(then, bind, first, second)))


def integral_gap(name, tables, bind=ppl.bind):
    """m(a >>= f) against the integral of m(f x) over m(a)."""
    program, kernel = AS[name][1](start(*tables)), kernel_of(name, *tables)
    values, log_weights = ppl.meaning(program).values, ppl.meaning(program).log_weights
    parts = [scaled(kernel(x), jnp.exp(w)) for x, w in zip(values, log_weights, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = added(total, part)
    return gap(bind(program, kernel), total)


@pytest.mark.parametrize("name", list(AS))
@few
@given(tables=tables)
def test_1_unit_and_associativity(name, tables):
    assert unit_gap(name, tables) < 1e-10
    assert associativity_gap(name, tables) < 1e-10
    assert integral_gap(name, tables) < 1e-10


def test_1_mutants_die():
    tables = (ROWS, SCORES)
    assert unit_gap("program", tables, mutants.bind_without_first_score) > DEAD
    assert unit_gap("weighted", tables, mutants.bind_weighted_forgetting) > DEAD
    assert integral_gap("finite", tables, mutants.bind_finite_forgetting) > DEAD
    pair = ppl.population(start(*tables), 2)
    kernel = kernel_of("population", *tables)
    wanted = ppl.bind(start(*tables), kernel_of("program", *tables))
    assert gap(ppl.bind(pair, kernel), wanted) < 1e-10
    assert gap(mutants.bind_population_to_first(pair, kernel), wanted) > DEAD


def test_1_unit_refuses_other_classes():
    with pytest.raises(ppl.errors.MeasureError, match="one of the classes Program, Weighted"):
        ppl.unit(jnp.array(1), dict)
    with pytest.raises(ppl.errors.MeasureError, match="bind is not defined for 'dict'"):
        ppl.bind({}, ppl.unit)


# --- 2: functor -------------------------------------------------------------------------------------------------------


def fmap(program, f):
    return program.map(f)


def functor_gap(program, fmap=fmap):
    """Identity, composition, and a map is a bind to a unit."""
    identity = gap(fmap(program, jnp.asarray), program)
    both = gap(fmap(fmap(program, fold), shift), fmap(program, shift_of_fold))
    return max(identity, both, gap(fmap(program, shift), ppl.bind(program, unit_of_shift)))


def shift_of_fold(x):
    return shift(fold(x))


def unit_of_shift(x):
    return ppl.unit(shift(x))


@few
@given(fillings(SKELETONS["branch_shared"]))
def test_2_functor(drawn):
    program = to_program(drawn)
    assert functor_gap(program) < 1e-10
    pushed = ppl.meaning(program).map(fold).map(shift)
    same(pushed, program.map(shift_of_fold))
    same(ppl.unit(jnp.array(7)).map(fold), ppl.unit(jnp.array(fold(7))))


def test_2_mutant_dies():
    assert functor_gap(ours("branch_shared"), mutants.map_by_prior) > DEAD


# --- 3: commutativity -------------------------------------------------------------------------------------------------


def _pair(first, second):
    a = ppl.sample("a", first)
    b = ppl.sample("b", second)
    return jnp.stack([a, b])


def _pair_swapped(first, second):
    b = ppl.sample("b", second)
    a = ppl.sample("a", first)
    return jnp.stack([a, b])


def _second_reads_first(first, second):
    a = ppl.sample("a", first)
    b = ppl.sample("b", second)
    ppl.factor("both", 0.75 * a * b)
    return jnp.stack([a, b])


def commutativity_gap(first, second, pair=_pair):
    """The two statements in either order, and the product of the measures; choices and values alike."""
    one, other = ppl.Program.of(pair, (first, second)), ppl.Program.of(_pair_swapped, (first, second))
    mine, theirs = ppl.meaning(first), ppl.meaning(second)
    joint = ppl.FiniteMeasure(
        jnp.add.outer(mine.log_weights, theirs.log_weights).reshape(-1),
        jnp.stack(jnp.meshgrid(mine.values, theirs.values, indexing="ij"), axis=-1).reshape(-1, 2),
    )
    on_choices = one.enumerate().on_choices().distance(other.enumerate().on_choices())
    return max(on_choices, gap(one, other), gap(one, joint))


@few
@given(fillings(SKELETONS["straight"]), fillings(SKELETONS["zero_weight"]))
def test_3_independent_statements_commute(first, second):
    assert commutativity_gap(to_program(first), to_program(second)) < 1e-10


def test_3_dependent_statements_do_not():
    assert commutativity_gap(ours("straight"), ours("zero_weight"), _second_reads_first) > DEAD


def _code(x, y):
    return 8 * x + y


def _swapped_code(y, x):
    return 8 * x + y


def test_3_particle_sets_do_not_commute():
    """Two particles of x, each with its own y, or one y that both share: one measure, two laws of the set."""
    xs, ys = ppl.population(ours("straight"), 2), ppl.population(after(ROWS, SCORES, jnp.array(1)), 1)
    x_first, y_first = _product(xs, ys, _code), _product(ys, xs, _swapped_code)
    same(x_first, y_first)
    assert law_gap(set_law(x_first), set_law(y_first)) > DEAD


def _product(first, second, pack):
    """first >>= (x -> second >>= (y -> unit(pack(x, y)))) of populations."""
    program = ppl.Program.of(_products, (first.program, second.program), {"pack": pack})
    return ppl.Population(program, first.n * second.n)


def _products(first, second, pack):

    def follow(particle):
        then = ppl.sample("then", second)
        value = jax.vmap(partial(pack, particle.value))(then.value)
        return ppl.Particle(value, particle.log_weight + then.log_weight)

    followed = ppl.vmap(follow)(ppl.sample("first", first))
    return jax.tree.map(lambda x: x.reshape(-1), followed)
