"""Sentences to read aloud: thousands of plain statements composed from the words of the closed domain.

Every slot is filled from a shuffled deck that is dealt to its end before it is shuffled again, so that all words, the
number words included, come equally often and in many contexts.
"""

from __future__ import annotations

import random
import string

from ttt_hf.recipes.tiny.domain_facts import (
    ADJECTIVE_OPPOSITES,
    COLORS,
    COUNTRIES,
    DAYS,
    MONTHS,
    ORDINALS,
    SEASONS,
    number_words,
    sentence,
    word_list,
)


MIN_WORDS, MAX_WORDS = 4, 12

_ANIMALS = word_list(
    """
    dog cat horse cow mouse bird frog bee ant spider elephant lion duck pig rabbit chicken bear monkey tiger
    snake puppy kitten lamb calf chick piglet duckling cub whale sheep wolf
    """
)
_PLURALS = word_list(
    """
    dogs cats horses cows birds frogs bees ants spiders elephants lions ducks pigs rabbits chickens bears
    monkeys tigers snakes whales wolves people animals children doctors bananas carrots eggs apples pictures
    books cars houses trees legs hands words friends lemons potatoes days weeks months years hours minutes
    seconds seasons
    """
)
_THINGS = word_list(
    """
    table chair door car book ball coat cup bed clock knife pen key phone train lamp hammer computer plane
    umbrella house tree picture machine tool banana tomato carrot lemon cherry apple orange strawberry potato
    cucumber nest hive web game cloud
    """
)
_FOODS = word_list(
    """
    bread milk water honey rice cheese chocolate coffee butter tea meat corn grass wool food dinner soap snow
    fire blood light fruit
    """
)
_PLACES = word_list(
    """
    farm city forest mountain ocean house country sea school water sky sun moon rain world home
    """
)
_PEOPLE = word_list(
    """
    doctor teacher farmer baker cook painter pilot friend enemy baby king queen man woman boy girl
    """
)
_VERBS = word_list(
    """
    love hate laugh win lose push pull remember forget start finish arrive leave sleep read write talk
    """
)
_PREPOSITIONS = ["near", "inside", "outside", "above", "below", "before", "after", "behind"]
_ADJECTIVES = [word for word in ADJECTIVE_OPPOSITES.replace(",", " ").split() if word not in ("same", "different")]

TEMPLATES = [
    "the {adjective} {animal} is {preposition} the {place}",
    "there are {number} {plural} {preposition} the {place}",
    "my {person} has {number} {plural}",
    "the {person} has {number} {color} {plural}",
    "we go from {city} to {city2} on {day}",
    "in {month} it is {adjective} in {country}",
    "the {thing} is {color} and the {thing2} is {color2}",
    "the {adjective} {person} sees {number} {plural}",
    "the {animal} and the {animal2} live in {country}",
    "the {person} is {number} years old",
    "I can see {number} {adjective} {plural}",
    "on {day} the {person} eats {food} and {food2}",
    "today is {day} and the {place} is {adjective}",
    "the {ordinal} {thing} is {adjective} and {color}",
    "the number {number} is on the {color} {thing}",
    "they always {verb} in {month}",
    "we never {verb} on {day}",
    "the {food} is {adjective} but the {food2} is {adjective2}",
    "a {adjective} {person} gives the {person2} a {thing}",
    "{number} {plural} are {adjective} and {adjective2}",
    "please give me {number} {plural} and {number2} {plural2}",
    "the {person} from {country} has a {color} {thing}",
    "the {animal} is {adjective} and {adjective2}",
    "you can see the {adjective} {place} in {city}",
    "in {season} the {place} is {color}",
    "in {season} we {verb} and {verb2}",
    "my {adjective} {thing} is {preposition} the {thing2}",
    "the {ordinal} day of {month} is a {day}",
    "I do not like {adjective} {food} in {season}",
    "{country} is a {adjective} country and {country2} is {adjective2}",
    "the {person} and the {person2} live in {city}",
    "we have {number} {color} {plural} from {country}",
    "it is {number} minutes {after} {number2}",
    "the {color} {animal} eats {number} {plural}",
    "people in {continent} have {number} {plural}",
    "the {direction} of {country} is {adjective}",
    "the word {adjective} comes after the word {adjective2}",
    "the word {verb} comes before the word {verb2}",
    "{city} and {city2} are {adjective} in {season}",
    "{number} people {verb} in {city} every {day}",
    "there is {everything} in the {color} {place}",
    "the planet {planet} is {adjective} and {color}",
    "Joe is here with a {adjective} {animal}",
]

_DECKS = {
    "adjective": _ADJECTIVES,
    "animal": _ANIMALS,
    "plural": _PLURALS,
    "thing": _THINGS,
    "food": _FOODS,
    "place": _PLACES,
    "person": _PEOPLE,
    "verb": _VERBS,
    "preposition": _PREPOSITIONS,
    "number": [number_words(n) for n in range(2, 101)],
    "color": COLORS,
    "country": [row[0] for row in COUNTRIES],
    "city": [row[1] for row in COUNTRIES],
    "continent": sorted({row[2] for row in COUNTRIES}),
    "day": DAYS,
    "month": MONTHS,
    "season": sorted(set(SEASONS)),
    "ordinal": ORDINALS,
    "direction": ["north", "south", "east", "west"],
    "after": ["before", "after"],
    "everything": ["everything", "nothing", "a question", "an answer", "day and night", "a planet"],
    "planet": ["Mars", "Venus", "Earth"],
}


class _Dealer:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._left: dict[str, list[str]] = {}

    def deal(self, deck: str) -> str:
        left = self._left.get(deck)
        if not left:
            left = self._left[deck] = list(_DECKS[deck])
            self._rng.shuffle(left)
        return left.pop()


def _articles(text: str) -> str:
    words = text.split(" ")
    for index, following in enumerate(words[1:]):
        if words[index] == "a" and following[0] in "aeiouAEIO" and not following.startswith(("one", "used")):
            words[index] = "an"
    return " ".join(words)


def read_aloud_sentences(count: int, seed: int, excluded: frozenset[str] = frozenset()) -> list[str]:
    """Composes distinct sentences to read aloud.

    Args:
        count: How many.
        seed: Of the choice of words.
        excluded: Sentences that must not come up, such as the answers of the domain.

    Returns:
        The sentences, 4 to 12 words each, in a mixed order.
    """
    rng = random.Random(seed)
    dealer = _Dealer(rng)
    seen: dict[str, None] = {}
    index = 0
    while len(seen) < count:
        template = TEMPLATES[index % len(TEMPLATES)]
        index += 1
        slots = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        values: dict[str, str] = {}
        for slot in slots:
            value = dealer.deal(slot.rstrip("2"))
            while value in values.values():
                value = dealer.deal(slot.rstrip("2"))
            values[slot] = value
        text = sentence(_articles(template.format(**values)))
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS and text not in excluded:
            seen[text] = None
    sentences = list(seen)
    rng.shuffle(sentences)
    return sentences
