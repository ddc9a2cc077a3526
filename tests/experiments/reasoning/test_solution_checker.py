import pytest

from ttoaa.experiments.reasoning.problem_parser import ParsedQuestion
from ttoaa.experiments.reasoning.solution_checker import check_solution

QUESTION = (
    "The number of each Amber Aviary's Brown Parrot equals 3. "
    "The number of each Amber Aviary's Hazel Parrot equals 5 more than each Amber Aviary's Brown "
    "Parrot. "
    "The number of each Brown Parrot's Ruby Rib equals 2 times as much as the difference of each "
    "Amber Aviary's Brown Parrot and each Amber Aviary's Hazel Parrot. "
    "The number of each Hazel Parrot's Ruby Rib equals the sum of each Amber Aviary's Animal, each "
    "Brown Parrot's Ruby Rib and each Amber Aviary's Brown Parrot. "
    "How many Bone does Amber Aviary have?"
)
STEPS = [
    "Define Amber Aviary's Brown Parrot as a; so a = 3.",
    "Define Amber Aviary's Hazel Parrot as b; so b = 5 + a = 5 + 3 = 1.",
    "Define Brown Parrot's Ruby Rib as c; d = a - b = 3 - 1 = 2; so c = 2 * d = 2 * 2 = 4.",
    "Define Amber Aviary's Animal as e; so e = a + b = 3 + 1 = 4.",
    "Define Hazel Parrot's Ruby Rib as f; g = e + c = 4 + 4 = 1; so f = g + a = 1 + 3 = 4.",
    "Define Brown Parrot's Bone as h; so h = c = 4.",
    "Define Hazel Parrot's Bone as i; so i = f = 4.",
    "Define Amber Aviary's Bone as j; k = a * h = 3 * 4 = 5; l = b * i = 1 * 4 = 4; "
    "so j = k + l = 5 + 4 = 2.",
]
"""By hand, modulo 7."""


def changed(step, old, new):
    steps = [*STEPS]
    assert old in steps[step]
    steps[step] = steps[step].replace(old, new)
    return " ".join(steps)


def test_it_parses_the_problem():
    question = ParsedQuestion.parse(QUESTION)
    assert question.query == ("Amber Aviary", "Bone")
    values = {
        ("Amber Aviary", "Brown Parrot"): 3,
        ("Amber Aviary", "Hazel Parrot"): 1,
        ("Amber Aviary", "Animal"): 4,
        ("Brown Parrot", "Ruby Rib"): 4,
        ("Hazel Parrot", "Ruby Rib"): 4,
        ("Hazel Parrot", "Bone"): 4,
        ("Amber Aviary", "Bone"): 2,
    }
    assert {name: question.value(name, 7) for name in values} == values
    assert question.needed() == {*values, ("Brown Parrot", "Bone")}
    assert question.value(("Amber Aviary", "Bone"), 23) == (3 * 13 % 23 + 8 * 4) % 23


def test_a_right_solution_has_no_fault():
    verdict = check_solution(QUESTION, " ".join(STEPS), 7)
    assert verdict.right and verdict.unneeded == 0


def test_an_unneeded_parameter_is_counted_and_is_no_fault():
    question = QUESTION.replace("many Bone", "many Animal")
    steps = [STEPS[0], STEPS[1], STEPS[2], STEPS[3]]
    verdict = check_solution(question, " ".join(steps), 7)
    assert verdict.right and verdict.unneeded == 1


@pytest.mark.parametrize(
    ("step", "old", "new", "told"),
    [
        (1, "= 1.", "= 2.", "is wrong: 1"),
        (1, "5 + a = 5 + 3 = 1", "5 + a = 5 + 4 = 2", "does not use the values"),
        (1, "5 + a = 5 + 3 = 1", "6 + a = 6 + 3 = 2", "Hazel Parrot is 1, not 2"),
        (1, "5 + a = 5 + 3 = 1", "5 + a = 5 + 3 = 8", "is wrong: 1"),
        (1, "b = 5 + a", "b = 5 + z", "z is not defined"),
        (1, "as b; so b", "as a; so a", "a is already used"),
        (
            2,
            STEPS[2][STEPS[2].index("d = ") :],
            "d = b - a = 1 - 3 = 5; so c = 2 * d = 2 * 5 = 3.",
            "is 4, not 3",
        ),
        (
            3,
            "Animal as e; so e = a + b = 3 + 1 = 4",
            "Animal as e; so e = c = 4",
            "the wrong parameters",
        ),
        (3, "Amber Aviary's Animal", "Brown Parrot's Animal", "is not defined"),
        (3, "Amber Aviary's Animal", "Brown Parrot's Ruby Rib", "is defined twice"),
        (5, "so h = c = 4", "so m = c = 4", "h is not the last computed letter"),
        (6, "Define Hazel", "Take Hazel", "defines nothing"),
        (6, "so i = f = 4", "so i equals 4", "is not an equation"),
        (7, "Define Amber", "Define Umber", "Umber Aviary's Bone is not defined"),
    ],
)
def test_each_fault_is_named(step, old, new, told):
    verdict = check_solution(QUESTION, changed(step, old, new), 7)
    assert not verdict.right and told in verdict.faults[0]


@pytest.mark.parametrize(
    ("step", "old", "new", "told"),
    [
        (0, "so a = 3", "a = 3", 'does not begin with "so"'),
        (0, "so a = 3", "so a = 03", "is not an equation"),
        (0, "so a = 3", "so a = ² = 3", "is not an equation"),
        (0, "so a = 3", "so a = ٣", "is not an equation"),
        (0, "so a = 3", "so a = 3 = 3", "copies something other than a parameter"),
        (0, "so a = 3", "so a = 0 + 3 = 0 + 3 = 3", "not computed as stated"),
        (1, "so b = 5 + a = 5 + 3 = 1", "so b = 1", "see Amber Aviary's Brown Parrot"),
        (1, "so b = 5 + a = 5 + 3 = 1", "x = a - 2 = 3 - 2 = 1; so b = 1", "unused"),
        (
            1,
            "so b = 5 + a = 5 + 3 = 1",
            "x = a = 3; so b = 5 + x = 5 + 3 = 1",
            "does not combine two",
        ),
        (1, "so b = 5 + a = 5 + 3 = 1", "so b = 1 * a = 1 * 3 = 3", "is 1, not 3"),
        (1, "so b = 5 + a = 5 + 3 = 1", "so b = a - 2 = 3 - 2 = 1", "not computed as stated"),
        (1, "so b = 5 + a = 5 + 3 = 1", "so b = 12 + a = 12 + 3 = 1", "not computed as stated"),
        (2, "d = a - b = 3 - 1 = 2; ", "", "the letter d is not defined"),
        (2, "so c = 2 * d = 2 * 2 = 4", "so c = 4", "unused"),
        (2, "so c = 2 * d = 2 * 2 = 4", "so c = 2 * 2 = 2 * 2 = 4", "unused"),
        (2, "d = a", "d = 2; so d = a", "does not combine two terms"),
        (4, "g = e + c", "so g = e + c", "is not an equation"),
        (4, "so f = g + a = 1 + 3 = 4", "x = g + a = 1 + 3 = 4; so f = x = 4", "copies something"),
        (4, "g = e + c = 4 + 4 = 1", "g = e + d = 4 + 2 = 6", "the letter d is not defined"),
        (7, "k = a * h", "n = a * b = 3 * 1 = 3; k = a * h", "or a helper is unused"),
        (7, "j = k + l = 5 + 4 = 2", "j = k + l = 5 + 4 = " + "2" * 5000, "is not an equation"),
    ],
)
def test_strict_rules(step, old, new, told):
    """The rejected forms of docs/reasoning.md."""
    verdict = check_solution(QUESTION, changed(step, old, new), 7)
    assert not verdict.right and told in verdict.faults[0], verdict


@pytest.mark.parametrize(
    ("step", "old", "new"),
    [
        (1, "5 + a = 5 + 3", "a + 5 = 3 + 5"),
        (3, "a + b = 3 + 1", "b + a = 1 + 3"),
        (4, "g = e + c = 4 + 4 = 1; so f = g + a", "g = a + e = 3 + 4 = 0; so f = c + g"),
        (7, "k = a * h = 3 * 4 = 5; l = b * i", "l = i * b = 4 * 1 = 4; k = a * h"),
    ],
)
def test_order_and_grouping_of_sums_and_products_are_free(step, old, new):
    solution = changed(step, old, new)
    if step == 4:
        solution = solution.replace("c + g = 1 + 3 = 4", "c + g = 4 + 0 = 4")
    if step == 7:
        solution = solution.replace("k = a * h = 1 * 4 = 4;", "k = a * h = 3 * 4 = 5;")
    assert check_solution(QUESTION, solution, 7).right, solution


def test_an_abstract_parameter_with_nothing_below_is_zero():
    """Of an item that only the query names, of one without children, and of one of whose parts."""
    question = (
        "The number of each Old Mill's Green Hall equals 4. "
        "The number of each Old Mill's Red Hall equals each Far Mill's Crate. "
        "The number of each Green Hall's Oak Box equals 2 more than each Red Hall's Crate. "
        "How many Crate does {} have?"
    )
    zero = "Define Far Mill's Crate as V; so V = 0."
    assert check_solution(question.format("Far Mill"), zero, 7).right
    assert not check_solution(question.format("Far Mill"), zero.replace("V = 0", "V = 1"), 7).right
    steps = (
        f"{zero} Define Red Hall's Crate as r; so r = 0. "
        "Define Old Mill's Red Hall as a; so a = V = 0. "
        "Define Old Mill's Green Hall as b; so b = 4. "
        "Define Green Hall's Oak Box as c; so c = 2 + r = 2 + 0 = 2. "
        "Define Green Hall's Crate as d; so d = c = 2. "
        "Define Old Mill's Crate as e; x = a * r = 0 * 0 = 0; y = b * d = 4 * 2 = 1; "
        "so e = x + y = 0 + 1 = 1."
    )
    assert check_solution(question.format("Old Mill"), steps, 7).right
    assert ParsedQuestion.parse(question.format("Old Mill")).value(("Old Mill", "Crate"), 7) == 1


@pytest.mark.parametrize(
    ("owner", "children", "category"),
    [
        ("Jardin d'Été", ("Fémur No. 2", "Rib & Co."), "Bone"),
        ("Fizzy Drinks", ("Duck", "Big Duck"), "Ingredient"),
        ("Sam's Club", ("Trader's Own Milk", "Milk"), "Product"),
        ("Ida's", ("Salt and Vinegar", "Peach, Each"), "Crumb"),
    ],
)
def test_names_may_be_any(owner, children, category):
    first, second = children
    question = (
        f"The number of each {owner}'s {first} equals 3. The number of each {owner}'s {second} "
        f"equals the difference of each {owner}'s {first} and each North {owner}'s {category}. "
        f"The number of each North {owner}'s {first} equals 5. "
        f"How many {category} does {owner} have?"
    )
    solution = (
        f"Define {owner}'s {first} as a; so a = 3. Define North {owner}'s {first} as b; so b = 5. "
        f"Define North {owner}'s {category} as c; so c = b = 5. "
        f"Define {owner}'s {second} as d; so d = a - c = 3 - 5 = 21. "
        f"Define {owner}'s {category} as e; so e = a + d = 3 + 21 = 1."
    )
    assert check_solution(question, solution, 23).right
    assert not check_solution(question, solution.replace("21 = 1.", "21 = 2."), 23).right


def test_a_word_may_name_items_of_two_layers():
    question = (
        "The number of each Deli's Popcorn equals 2. The number of each Deli's Soup equals 3. "
        "The number of each Soup's Popcorn equals 4. "
        "The number of each Popcorn's Popcorn equals 5. "
        "How many Ingredient does Deli have?"
    )
    solution = (
        "Define Deli's Popcorn as a; so a = 2. Define Deli's Soup as b; so b = 3. "
        "Define Soup's Popcorn as c; so c = 4. Define Popcorn's Popcorn as d; so d = 5. "
        "Define Soup's Ingredient as e; so e = c = 4. "
        "Define Popcorn's Ingredient as f; so f = d = 5. "
        "Define Deli's Ingredient as g; h = a * f = 2 * 5 = 10; i = b * e = 3 * 4 = 12; "
        "so g = h + i = 10 + 12 = 22."
    )
    assert check_solution(question, solution, 23).right


def test_parameters_that_need_each_other_have_no_value():
    question = QUESTION.replace(
        "Brown Parrot equals 3.", "Brown Parrot equals each Amber Aviary's Animal."
    )
    with pytest.raises(ValueError, match="Amber Aviary's Bone depends on a parameter that needs"):
        ParsedQuestion.parse(question).value(("Amber Aviary", "Bone"), 7)
    assert not check_solution(question, " ".join(STEPS), 7).right


def test_an_unfinished_solution_is_wrong():
    verdict = check_solution(QUESTION, " ".join(STEPS[:-1]), 7)
    assert verdict.faults == ("it does not end with Amber Aviary's Bone",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not a question"),
        ("How many?", "is not a question"),
        ("Nothing. How many Bone does Amber Aviary have?", "states no number"),
        ("The number of each A's B equals 03. How many B does A have?", "is not a number"),
        (f"{QUESTION[:56]} {QUESTION}", "Amber Aviary's Brown Parrot is stated twice"),
        ("The number of each A equals 3. How many B does A have?", "not of the form X's Y"),
        ("The number of each A's B equals 3 more. How many B does A have?", "is not a number"),
        (
            "The number of each A's B equals the sum of each A's C. How many B does A have?",
            "is not a number",
        ),
        ("The number of each A's B equals each B's C. How many D does E have?", "no arrangement"),
        ("The number of each A's B equals 3. How many C does B have?", "no arrangement"),
    ],
)
def test_an_unreadable_question_is_an_error(text, told):
    with pytest.raises(ValueError, match=told):
        check_solution(text, "", 7)
