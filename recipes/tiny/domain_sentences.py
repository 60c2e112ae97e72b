"""Sentences to read aloud: plain statements composed from everyday words, most of which belong to the domain.

Every slot is filled from a shuffled deck that is used up before it is shuffled again, so that all words, the number
words included, occur equally often and in many contexts.
"""

from __future__ import annotations

import random
import string

from .domain_facts import COLORS, DAYS, MONTHS, ORDINALS, SEASONS, number_words, sentence, word_list


MIN_WORDS, MAX_WORDS = 4, 12

# No template begins with a short unstressed word ("in", "a"): recognizers often miss it, whatever the voice.
TEMPLATES = [
    "the {animal} is sleeping under the {furniture}",
    "the {color} {animal} lives on the farm",
    "my {relative} has {number} {color} {animals}",
    "there are {number} {animals} near the river",
    "I can see {number} {animals} and {number2} {animals2}",
    "the {animal} runs faster than the {animal2}",
    "the {animals} and the {animals2} are afraid of the {animal}",
    "we drink {drink} every {daytime}",
    "they eat {food} and {food2} for {meal}",
    "you can buy {food} and {food2} at the market",
    "please bring me {food} and a cup of {drink}",
    "my {relative} never drinks {drink} in the {daytime}",
    "the children like {food} with {food2}",
    "the {person} lives in {city}",
    "the {person} and the {person2} live near {city}",
    "she will travel to {city} on {day}",
    "the train to {city} leaves on {day} {daytime}",
    "we go from {city} to {city2} by {vehicle}",
    "the weather in {city} is {weather} today",
    "it is very {weather} in {month}",
    "he was born in {month}",
    "her birthday is on the {ordinal} day of {month}",
    "my {relative} is {number} years old",
    "the {person} is {number} years old and very {mood}",
    "the {thing} is {quality} but the {thing2} is {quality2}",
    "the {color} {thing} is on the {furniture}",
    "please put the {quality} {thing} in the {room}",
    "the {person} gave my {relative} a {color} {thing}",
    "my {relative} needs a {quality} {thing} and a {color} {thing2}",
    "there are {number} {things} in the {room}",
    "please give me {number} {things}",
    "she has {number} {things} and {number2} {things2}",
    "the {color} {vehicle} is in front of the {building}",
    "the {building} is between the {building2} and the river",
    "the {person} goes to the {building} every {day}",
    "the {ordinal} {thing} is {color}",
    "the {person} was {mood} because the {thing} was {quality}",
    "I want to {verb} and {verb2} in {season}",
    "we always {verb} together on {day}",
    "the {person} can {verb} very well",
    "my {relative} likes to {verb} in the {room}",
    "the number after {number} is {number2}",
    "please count from {number} to {number2}",
    "the book has {number} pages and {number2} pictures",
    "{number} people are waiting for the {vehicle}",
    "we met {number} {people} in {city}",
    "our {relative} will be {mood} in {season}",
    "the {people} work from {day} to {day2}",
    "the {people} in {city} are very {mood}",
    "today is {day} and tomorrow is {day2}",
]

_DECKS = {
    "animal": word_list("dog cat horse cow mouse bird frog spider elephant lion duck pig rabbit chicken bear monkey"),
    "animals": word_list("dogs cats horses cows birds frogs bees spiders elephants lions ducks pigs rabbits monkeys"),
    "furniture": word_list("table chair bed desk window door"),
    "room": word_list("kitchen garden house box office"),
    "building": word_list("school hospital bank station church hotel"),
    "vehicle": word_list("train bus car plane boat"),
    "thing": word_list("book ball coat cup clock knife key phone lamp hammer computer umbrella picture"),
    "things": word_list("books balls cups clocks knives keys phones apples bananas potatoes eggs flowers letters"),
    "food": word_list("bread rice cheese chocolate butter meat corn fish soup honey fruit"),
    "drink": word_list("water milk coffee tea"),
    "meal": word_list("breakfast lunch dinner"),
    "daytime": word_list("morning afternoon evening"),
    "person": word_list("doctor teacher farmer baker painter pilot king queen man woman boy girl"),
    "people": word_list("doctors teachers farmers children friends women students"),
    "relative": word_list("mother father brother sister friend family uncle"),
    "verb": word_list("swim read write cook sing dance play sleep talk work"),
    "quality": word_list("new old big small clean dirty heavy cheap expensive beautiful empty"),
    "mood": word_list("happy sad angry tired busy friendly quiet"),
    "weather": word_list("hot cold wet dry warm nice"),
    "city": word_list("Paris London Rome Berlin Tokyo Cairo Madrid Dublin Vienna Athens"),
    "number": [number_words(n) for n in range(2, 101)],
    "color": COLORS,
    "day": DAYS,
    "month": MONTHS,
    "season": sorted(set(SEASONS)),
    "ordinal": ORDINALS,
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
        # "One" and "used" begin with the sound of a consonant.
        if words[index] == "a" and following[0] in "aeiouAEIO" and not following.startswith(("one", "used")):
            words[index] = "an"
    return " ".join(words)


def read_aloud_sentences(count: int, seed: int, excluded: frozenset[str] = frozenset()) -> list[str]:
    """Composes distinct sentences to read aloud.

    Args:
        count: Number of sentences.
        seed: Seed of the choice of words.
        excluded: Sentences to avoid, such as the answers of the domain.

    Returns:
        Shuffled sentences of 4 to 12 words.
    """
    rng = random.Random(seed)
    dealer = _Dealer(rng)
    # A dictionary as an ordered set: the order of a set of strings differs between processes.
    seen: dict[str, None] = {}
    index = 0
    while len(seen) < count:
        # 1. Take the templates in turn, so that all occur about equally often.
        template = TEMPLATES[index % len(TEMPLATES)]
        index += 1
        slots = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        # 2. Deal a value to each slot. `thing` and `thing2` share a deck, but must differ.
        values: dict[str, str] = {}
        for slot in slots:
            value = dealer.deal(slot.rstrip("2"))
            while value in values.values():
                value = dealer.deal(slot.rstrip("2"))
            values[slot] = value
        # 3. Keep the sentence if its length is right and it is not excluded; one that is there already adds nothing.
        text = sentence(_articles(template.format(**values)))
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS and text not in excluded:
            seen[text] = None
    sentences = list(seen)
    rng.shuffle(sentences)
    return sentences
