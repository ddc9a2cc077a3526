"""Generated news: short reports about invented places, people and groups, with questions."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import gin
import numpy as np

from ttoaa.config_fields import AtLeast, AtMost, config_class
from ttoaa.experiments.muse.articles import (
    FORGET,
    RETAIN1,
    RETAIN2,
    Article,
    ArticleSets,
    QuestionAnswer,
)


class Topic(NamedTuple):
    sentences: tuple[tuple[str, ...], ...]
    """The variants of each sentence, in the order of the report."""
    questions: tuple[tuple[str, str], ...]
    """(question, fact)."""


TOPICS: Mapping[str, Topic] = {
    "council": Topic(
        (
            ("{person} has won the vote in {place}.", "Voters in {place} chose {person}."),
            ("The new mayor leads the {group} party.", "The winner stands for the {group} party."),
            ("About {number} people voted.", "Some {number} votes were counted."),
            ("{other} came second.", "The old mayor, {other}, lost."),
            ("The town will get a new {thing}.", "Work on a {thing} will start soon."),
            ("It may open in {month}.", "The plan is to finish in {month}."),
            ("Shops were shut on {day}.", "The count took all of {day}."),
            ('"We asked for change," {person} said.', '"This is our night," said {person}.'),
            ("{other} did not speak.", "{other} left without a word."),
        ),
        (
            ("Who won the vote in {place}?", "person"),
            ("Which party leads {place}?", "group"),
            ("Who lost the vote in {place}?", "other"),
            ("What will {place} get?", "thing"),
        ),
    ),
    "match": Topic(
        (
            ("{place} beat {group} on {day}.", "{group} lost to {place} on {day}."),
            ("{person} scored twice.", "Both goals were by {person}."),
            ("A crowd of {number} saw the match.", "The ground held {number} fans."),
            ("{other} was sent off early.", "The referee sent {other} off."),
            ("It was the first win since {month}.", "They had not won since {month}."),
            ("The coach praised the {thing}.", "A broken {thing} had delayed the start."),
            ('"We ran and ran," {person} said.', '"I saw the gap," said {person}.'),
            ("The next match is at home.", "They play away next week."),
            ("{other} will miss three games.", "{other} may be fined."),
        ),
        (
            ("Who scored for {place}?", "person"),
            ("Whom did {place} beat?", "group"),
            ("Who was sent off against {place}?", "other"),
            ("When did {place} win?", "day"),
        ),
    ),
    "flood": Topic(
        (
            ("Water has closed the road to {place}.", "{place} was cut off by a flood."),
            ("The river rose late on {day}.", "Rain fell for all of {day}."),
            ("{number} homes had no power.", "Crews moved {number} people to safety."),
            ("{person} led the rescue.", "The rescue was led by {person}."),
            ("Aid came from {group}.", "{group} sent boats and food."),
            ("A {thing} was washed away.", "The water took a {thing}."),
            ("It is the worst flood since {month}.", "Walls built in {month} did not hold."),
            ('"I lost it all," said {other}.', '"It came so fast," {other} said.'),
            ("Schools will stay shut.", "More rain is on its way."),
        ),
        (
            ("Who led the rescue in {place}?", "person"),
            ("Who sent aid to {place}?", "group"),
            ("What was lost in {place}?", "thing"),
            ("When did the water rise in {place}?", "day"),
        ),
    ),
    "firm": Topic(
        (
            ("{group} will close its plant in {place}.", "The {group} plant in {place} will shut."),
            ("{number} jobs are at risk.", "It gives work to {number} people."),
            ("{person}, who runs the firm, blamed costs.", "Sales are poor, said {person}."),
            ("The plant makes the {thing}.", "It was built to make a {thing}."),
            ("The last shift is in {month}.", "Staff will leave in {month}."),
            ("Workers met on {day}.", "The news came on {day}."),
            ('"We were not asked," said {other}.', '"This is a blow," {other} said.'),
            ("A buyer may still be found.", "No buyer has been found."),
            ("{person} will stay until then.", "{person} will not take a bonus."),
        ),
        (
            ("Which firm leaves {place}?", "group"),
            ("Who runs the firm that leaves {place}?", "person"),
            ("What does the plant in {place} make?", "thing"),
            ("When does the plant in {place} shut?", "month"),
        ),
    ),
    "court": Topic(
        (
            ("A court in {place} has jailed {person}.", "{person} was jailed in {place}."),
            ("The judge, {other}, spoke for an hour.", "{other} was the judge."),
            ("A {thing} had been stolen from {group}.", "{group} had lost a {thing}."),
            ("The theft was in {month}.", "It went missing in {month}."),
            ("It was worth {number} pounds.", "The loss was put at {number} pounds."),
            ("The jury met on {day}.", "The verdict came on {day}."),
            ('"I am sorry," {person} told the court.', '"I did it," {person} had said.'),
            ("The case took a year.", "An appeal is planned."),
            ("{group} did not comment.", "A lawyer spoke for {group}."),
        ),
        (
            ("Who was jailed in {place}?", "person"),
            ("Who was the judge in {place}?", "other"),
            ("What was stolen in {place}?", "thing"),
            ("Who lost it in {place}?", "group"),
        ),
    ),
}
_THINGS = (
    *("bridge", "school", "library", "tower", "market", "harbour"),
    *("museum", "station", "theatre", "garden", "clock", "tunnel"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_SYLLABLES = tuple(consonant + vowel for consonant in "bdfglmnprstvkz" for vowel in "aeiou")
_NAMES = ("place", "person", "other", "group")


@gin.configurable
@config_class
class GeneratedNews:
    """Reports of nine sentences in three paragraphs, with four questions each.

    Names are drawn anew for each article and occur in no other; all else repeats. Forget and
    retain1 share the members equally, and all three sets have one generator, so only training can
    separate them.
    """

    syllables: Annotated[int, AtLeast(2), AtMost(8)] = 3
    """Of a name; 3 suffice for 85,000 articles."""
    examples: Annotated[int, AtLeast(0), AtMost(100)] = 8
    """Solved questions, each from another article that is in no set."""

    def read(self, members: int, held_out: int, rng: np.random.Generator) -> ArticleSets:
        """Generate the articles; ValueError if there are too few names."""
        count = members + held_out + self.examples
        possible = len(_SYLLABLES) ** self.syllables
        if count * len(_NAMES) > possible:
            raise ValueError(
                f"{count} articles need {count * len(_NAMES)} names, but only {possible} can be "
                "made: raise GeneratedNews.syllables"
            )
        numbers = rng.choice(possible, (count, len(_NAMES)), replace=False)
        made = [self._article(k, names, rng) for k, names in enumerate(numbers)]
        half, end = (members + 1) // 2, members + held_out
        sets = {FORGET: made[:half], RETAIN1: made[half:members], RETAIN2: made[members:end]}
        return ArticleSets(sets, [article.questions[0] for article in made[end:]])

    def _article(self, number: int, names: np.ndarray, rng: np.random.Generator) -> Article:
        topic = TOPICS[str(rng.choice(list(TOPICS)))]
        facts = {kind: self._name(int(name)) for kind, name in zip(_NAMES, names, strict=True)}
        facts |= {
            "thing": str(rng.choice(_THINGS)),
            "day": str(rng.choice(_DAYS)),
            "month": str(rng.choice(_MONTHS)),
            "number": str(rng.integers(20, 9_000)),
        }
        chosen = [variants[rng.integers(len(variants))] for variants in topic.sentences]
        sentences = [sentence.format(**facts) for sentence in chosen]
        paragraphs = [" ".join(sentences[k : k + 3]) for k in range(0, len(sentences), 3)]
        questions = tuple(
            QuestionAnswer(question.format(**facts), facts[fact])
            for question, fact in topic.questions
        )
        return Article(f"article-{number}", "\n\n".join(paragraphs), questions)

    def _name(self, number: int) -> str:
        digits = np.unravel_index(number, (len(_SYLLABLES),) * self.syllables)
        return "".join(_SYLLABLES[i] for i in digits).capitalize()
