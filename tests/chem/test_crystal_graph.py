"""Crystal graphs: their definition against brute force, the line graph, and what must not change them."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from crystal_cases import (
    BY_HAND,
    CHAIN,
    CUBIC,
    FCC,
    HEXAGONAL,
    ROCK_SALT,
    SPARSE,
    edge_multiset,
    lengths_by_atom,
    random_crystal,
    rotated,
    supercell,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.chem.crystal_graph import (
    SHELL_TOLERANCE_ANGSTROM,
    GraphSettings,
    k_nearest_graph,
    line_graph,
    radius_graph,
)
from crystalfm.chem.crystals import make_crystal
from crystalfm.contracts import UserError

seeds = st.integers(0, 10_000)
BUILDERS = {
    "k_nearest": k_nearest_graph,
    "five_nearest": lambda crystal: k_nearest_graph(crystal, 5),
    "as_alignn": lambda crystal: k_nearest_graph(crystal, as_alignn=True),
    "radius": radius_graph,
    "short_radius": lambda crystal: radius_graph(crystal, 2.5),
}
INVARIANT = [name for name in BUILDERS if name != "as_alignn"]


def brute_force(crystal, reach):
    """Return distances (N, N, images) and images, searched cell by cell."""
    images = np.array(list(product(*(range(-n, n + 1) for n in reach))))
    cart = crystal.frac_coords @ crystal.lattice
    vectors = cart[None, :, None] + (images @ crystal.lattice)[None, None] - cart[:, None, None]
    return np.linalg.norm(vectors, axis=-1), images


def brute_k_nearest(crystal, num, reach):
    distances, images = brute_force(crystal, reach)
    edges = set()
    for atom, row in enumerate(distances):
        last = np.sort(row[row > 0.15])[num - 1]
        for point, place in zip(*np.nonzero((row <= last + SHELL_TOLERANCE_ANGSTROM) & (row > 0.15)), strict=True):
            image = tuple(images[place].tolist())
            edges.add((atom, int(point), *image))
            edges.add((int(point), atom, *(-i for i in image)))
    return Counter(edges)


@pytest.mark.parametrize("name", ["cubic", "fcc", "rock salt", "hexagonal", "skewed"])
@pytest.mark.parametrize("num", [1, 5, 12])
def test_k_nearest_edges_are_those_of_a_search_over_all_cells(name, num):
    crystal = BY_HAND[name]
    reach = (90, 14, 4) if name == "skewed" else (4, 4, 4)
    assert edge_multiset(k_nearest_graph(crystal, num)) == brute_k_nearest(crystal, num, reach)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_k_nearest_edges_of_random_crystals_are_those_of_a_search_over_all_cells(seed):
    crystal = random_crystal(seed, max_atoms=5)
    graph = k_nearest_graph(crystal, 6)
    reach = tuple((np.abs(graph.image).max(axis=0) + 2).tolist())
    assert edge_multiset(graph) == brute_k_nearest(crystal, 6, reach)


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(2.0, 6.0))
def test_radius_edges_are_those_of_a_search_over_all_cells(seed, cutoff):
    crystal = random_crystal(seed, max_atoms=5)
    graph = radius_graph(crystal, cutoff)
    reach = tuple((np.abs(graph.image).max(axis=0, initial=0) + 2).tolist())
    distances, images = brute_force(crystal, reach)
    expected = Counter(
        (int(a), int(b), *images[c].tolist())
        for a, b, c in zip(*np.nonzero((distances <= cutoff + 1e-8) & (distances > 1e-4)), strict=True)
    )
    assert edge_multiset(graph) == expected


@pytest.mark.parametrize(
    ("crystal", "num", "degree"),
    [(FCC, 12, 12), (FCC, 13, 18), (CUBIC, 1, 6), (CUBIC, 7, 18), (CUBIC, 12, 18), (ROCK_SALT, 6, 6)],
)
def test_the_whole_shell_of_the_last_neighbour_is_kept(crystal, num, degree):
    graph = k_nearest_graph(crystal, num)
    assert np.bincount(graph.source).tolist() == [degree] * crystal.num_atoms


@pytest.mark.parametrize("crystal", [SPARSE, CHAIN])
def test_every_atom_of_a_sparse_cell_has_its_neighbours(crystal):
    graph = k_nearest_graph(crystal)
    assert np.bincount(graph.source, minlength=crystal.num_atoms).min() >= 12
    assert np.linalg.norm(graph.vector, axis=1).max() > 8


def test_atoms_without_neighbours_have_no_radius_edges():
    graph = radius_graph(SPARSE, 0.2)
    assert (len(graph.source), graph.vector.shape, graph.num_atoms) == (0, (0, 3), 3)
    assert GraphSettings("radius").num_triplets(graph).tolist() == [0, 0, 0]
    assert [len(part) for part in line_graph(graph.source, graph.target)] == [0, 0]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("name", BY_HAND)
def test_edges_are_sorted_have_reverses_and_vectors_of_their_atoms(name, build):
    crystal = BY_HAND[name]
    graph = BUILDERS[build](crystal)
    assert (np.diff(graph.target) >= 0).all()
    assert graph.vector.dtype == np.float32
    reverse = Counter((b, a, -x, -y, -z) for a, b, x, y, z in edge_multiset(graph).elements())
    assert edge_multiset(graph) == reverse
    coords = crystal.frac_coords
    expected = (coords[graph.target] + graph.image - coords[graph.source]) @ crystal.lattice
    np.testing.assert_allclose(graph.vector, expected, atol=2e-4 if build == "as_alignn" else 1e-5)


def test_as_alignn_an_edge_to_an_image_of_its_own_atom_is_there_twice():
    once, twice = edge_multiset(k_nearest_graph(FCC)), edge_multiset(k_nearest_graph(FCC, as_alignn=True))
    assert set(once.values()) == {1}
    assert twice == once + once


# --------------------------------------------------------------------------- what must not change a graph


def assert_same_lengths(graph, other, atoms):
    lengths, others = lengths_by_atom(graph), lengths_by_atom(other)
    for atom, place in enumerate(atoms):
        np.testing.assert_allclose(others[place], lengths[atom], atol=2e-4)


@pytest.mark.parametrize("build", INVARIANT)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, name=st.sampled_from([*BY_HAND, "random"]))
def test_rotations_and_reflections_change_no_edge(build, seed, name):
    crystal = BY_HAND.get(name) or random_crystal(seed)
    other = BUILDERS[build](rotated(crystal, seed))
    graph = BUILDERS[build](crystal)
    assert edge_multiset(other) == edge_multiset(graph)
    assert_same_lengths(graph, other, range(graph.num_atoms))


@pytest.mark.parametrize("build", INVARIANT)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, name=st.sampled_from([*BY_HAND, "random"]))
def test_a_translation_moves_images_alone(build, seed, name):
    crystal = BY_HAND.get(name) or random_crystal(seed)
    rng = np.random.default_rng(seed)
    cells = rng.integers(-3, 4, (crystal.num_atoms, 3))
    moved = make_crystal(crystal.lattice, crystal.atomic_numbers, crystal.frac_coords + rng.random(3) + cells)
    graph, other = BUILDERS[build](crystal), BUILDERS[build](moved)
    image = graph.image - cells[graph.target] + cells[graph.source]
    shifted = Counter(map(tuple, np.column_stack([graph.source, graph.target, image]).tolist()))
    assert edge_multiset(other) == shifted
    assert_same_lengths(graph, other, range(graph.num_atoms))


@pytest.mark.parametrize("build", INVARIANT)
@settings(deadline=None, max_examples=40)
@given(seed=seeds, name=st.sampled_from([*BY_HAND, "random"]))
def test_a_permutation_renames_atoms_alone(build, seed, name):
    crystal = BY_HAND.get(name) or random_crystal(seed)
    order = np.random.default_rng(seed).permutation(crystal.num_atoms)
    permuted = make_crystal(crystal.lattice, crystal.atomic_numbers[order], crystal.frac_coords[order])
    graph, other = BUILDERS[build](crystal), BUILDERS[build](permuted)
    renamed = Counter((int(order[a]), int(order[b]), *image) for a, b, *image in edge_multiset(other).elements())
    assert renamed == edge_multiset(graph)


@pytest.mark.parametrize("build", INVARIANT)
@settings(deadline=None, max_examples=25)
@given(seed=seeds, name=st.sampled_from([*BY_HAND, "random"]), repeats=st.tuples(*[st.integers(1, 3)] * 3))
def test_in_a_supercell_every_copy_of_an_atom_has_its_edges_and_triplets(build, seed, name, repeats):
    crystal = BY_HAND.get(name) or random_crystal(seed, max_atoms=4)
    graph, large = BUILDERS[build](crystal), BUILDERS[build](supercell(crystal, repeats))
    copies = int(np.prod(repeats))
    assert len(large.source) == copies * len(graph.source)
    for copy in range(copies):
        assert_same_lengths(graph, large, range(copy * crystal.num_atoms, (copy + 1) * crystal.num_atoms))
    for options in (GraphSettings(), GraphSettings("radius", angle_cutoff_angstrom=3.5)):
        np.testing.assert_array_equal(options.num_triplets(large), np.tile(options.num_triplets(graph), copies))


def test_a_cell_of_two_thousand_atoms_has_the_edges_of_its_unit_cell():
    large = supercell(ROCK_SALT, (10, 10, 10))
    graph = k_nearest_graph(large)
    assert len(graph.source) == 1000 * len(k_nearest_graph(ROCK_SALT).source)
    expected = GraphSettings().num_triplets(k_nearest_graph(ROCK_SALT))
    np.testing.assert_array_equal(GraphSettings().num_triplets(graph), np.tile(expected, 1000))


def test_the_same_crystal_in_very_skewed_vectors_has_the_same_lengths():
    skewed = make_crystal(np.array([[1, 0, 0], [13, 1, 0], [-7, 11, 1]]) @ HEXAGONAL.lattice, [6, 6], np.zeros((2, 3)))
    cart = HEXAGONAL.frac_coords @ HEXAGONAL.lattice
    skewed = make_crystal(skewed.lattice, [6, 6], cart @ np.linalg.inv(skewed.lattice))
    for build in INVARIANT:
        assert_same_lengths(BUILDERS[build](HEXAGONAL), BUILDERS[build](skewed), range(2))


# --------------------------------------------------------------------------- line graphs


def naive_line_graph(source, target, allowed, pair_with_itself):
    edges = [edge for edge in range(len(source)) if allowed[edge]]
    return Counter(
        (first, second)
        for first, second in product(edges, edges)
        if target[first] == source[second] and (pair_with_itself or first != second)
    )


@settings(deadline=None)
@given(seeds, st.booleans(), st.booleans())
def test_the_line_graph_pairs_edges_that_follow_each_other(seed, pair_with_itself, restricted):
    rng = np.random.default_rng(seed)
    num_atoms, num_edges = rng.integers(1, 6), rng.integers(0, 25)
    source, target = rng.integers(0, num_atoms, num_edges), np.sort(rng.integers(0, num_atoms, num_edges))
    allowed = rng.random(num_edges) < (0.6 if restricted else 2)
    first, second = line_graph(
        source, target, allowed=allowed if restricted else None, pair_with_itself=pair_with_itself
    )
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert Counter(pairs) == naive_line_graph(source, target, allowed, pair_with_itself)
    assert pairs == sorted(pairs, key=lambda pair: (pair[1], pair[0]))


@pytest.mark.parametrize("options", [GraphSettings(), GraphSettings(as_alignn=True), GraphSettings("radius")])
def test_graphs_side_by_side_are_those_of_the_crystals_and_so_are_their_line_graphs(options):
    crystals = [*BY_HAND.values(), *(random_crystal(seed) for seed in range(4))]
    graph = options.build(crystals)
    first, second = options.triplets(graph.source, graph.target, graph.vector)
    atoms = edges = triplets = 0
    for crystal in crystals:
        single = options.build([crystal])
        ours = slice(edges, edges + len(single.source))
        np.testing.assert_array_equal(graph.source[ours] - atoms, single.source)
        np.testing.assert_array_equal(graph.target[ours] - atoms, single.target)
        np.testing.assert_array_equal(graph.image[ours], single.image)
        np.testing.assert_array_equal(graph.vector[ours], single.vector)
        pairs = options.triplets(single.source, single.target, single.vector)
        for mine, theirs in zip(pairs, (first, second), strict=True):
            np.testing.assert_array_equal(theirs[triplets : triplets + len(mine)] - edges, mine)
        atoms, edges, triplets = atoms + crystal.num_atoms, ours.stop, triplets + len(pairs[0])
    assert (graph.num_atoms, len(graph.source), len(first)) == (atoms, edges, triplets)


def test_images_millions_of_cells_apart_do_not_mix_edges_up():
    cells = np.array([[0, 0, 0], [3_000_000, -3_000_000, 3_000_000]])
    far = make_crystal(ROCK_SALT.lattice, [11, 17], ROCK_SALT.frac_coords + cells)
    graph, other = k_nearest_graph(ROCK_SALT), k_nearest_graph(far)
    image = other.image + cells[other.target] - cells[other.source]
    assert edge_multiset(graph) == Counter(map(tuple, np.column_stack([other.source, other.target, image]).tolist()))


def test_edges_that_are_not_sorted_are_refused():
    with pytest.raises(ValueError, match="sorted by their target"):
        line_graph(np.array([0, 1]), np.array([1, 0]))


@pytest.mark.parametrize(
    "options",
    [
        GraphSettings(),
        GraphSettings(as_alignn=True),
        GraphSettings("radius"),
        GraphSettings("radius", cutoff_angstrom=6, angle_cutoff_angstrom=3.5),
    ],
)
@pytest.mark.parametrize("name", BY_HAND)
def test_triplets_are_counted_as_they_are_made(name, options):
    graph = options.build([BY_HAND[name], ROCK_SALT])
    first, second = options.triplets(graph.source, graph.target, graph.vector)
    expected = np.bincount(graph.target[second], minlength=graph.num_atoms)
    np.testing.assert_array_equal(options.num_triplets(graph), expected)
    np.testing.assert_array_equal(graph.target[first], graph.source[second])
    if options.angle_cutoff_angstrom is not None:
        assert np.linalg.norm(graph.vector[first], axis=1).max(initial=0) <= 3.5
    assert (first == second).any() == (
        options.pair_with_itself and bool((graph.source[first] == graph.target[first]).any())
    )


def test_every_setting_is_part_of_the_identity():
    base = GraphSettings()
    others = [
        GraphSettings("radius"),
        GraphSettings(max_neighbors=11),
        GraphSettings(cutoff_angstrom=5.5),
        GraphSettings(angle_cutoff_angstrom=3.5),
        GraphSettings(as_alignn=True),
    ]
    assert len({str(options.identity()) for options in [base, *others]}) == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "voronoi"},
        {"max_neighbors": 0},
        {"cutoff_angstrom": 0.0},
        {"cutoff_angstrom": float("nan")},
        {"angle_cutoff_angstrom": -1.0},
        {"strategy": "radius", "cutoff_angstrom": 3.0, "angle_cutoff_angstrom": 3.5},
    ],
)
def test_settings_that_make_no_graph_are_the_users_error(wrong):
    with pytest.raises(UserError, match=f"{list(wrong)[-1]}="):
        GraphSettings(**wrong)
    assert GraphSettings(angle_cutoff_angstrom=9.0).cutoff_angstrom == 5.0  # which counts for radius graphs alone
