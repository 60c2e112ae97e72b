"""The facts of the closed domain: number words, tables of world knowledge, and question-answer pairs made from them.

A `Fact` is one question-answer pair without its wording: the kind of question, the values of its slots and the answer.
The tables were written for this project; months and seasons are those of the northern hemisphere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace


# Sums stay within 0 to 100, the numbers that `number_words` spells out.
MAX_OPERAND = 50


def word_list(text: str) -> list[str]:
    """Splits a block of text into words; keeps long tables readable."""
    return text.split()


_SMALL = word_list(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = word_list(
    """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
    """
)

# country, capital, continent
COUNTRIES = [
    tuple(row.split(", "))
    for row in [
        "France, Paris, Europe",
        "Germany, Berlin, Europe",
        "Italy, Rome, Europe",
        "Spain, Madrid, Europe",
        "England, London, Europe",
        "Greece, Athens, Europe",
        "Portugal, Lisbon, Europe",
        "Ireland, Dublin, Europe",
        "Austria, Vienna, Europe",
        "Hungary, Budapest, Europe",
        "Poland, Warsaw, Europe",
        "Sweden, Stockholm, Europe",
        "Norway, Oslo, Europe",
        "Finland, Helsinki, Europe",
        "Denmark, Copenhagen, Europe",
        "Belgium, Brussels, Europe",
        "Scotland, Edinburgh, Europe",
        "Japan, Tokyo, Asia",
        "China, Beijing, Asia",
        "Iran, Tehran, Asia",
        "Iraq, Baghdad, Asia",
        "Thailand, Bangkok, Asia",
        "Vietnam, Hanoi, Asia",
        "India, New Delhi, Asia",
        "Egypt, Cairo, Africa",
        "Kenya, Nairobi, Africa",
        "Canada, Ottawa, North America",
        "Mexico, Mexico City, North America",
        "Cuba, Havana, North America",
        "Jamaica, Kingston, North America",
        "Peru, Lima, South America",
        "Chile, Santiago, South America",
    ]
]

ADJECTIVE_OPPOSITES = """hot cold, big small, fast slow, old young, happy sad, rich poor, hard soft, wet dry,
clean dirty, full empty, high low, long short, wide narrow, thick thin, heavy light, early late, open closed,
loud quiet, easy difficult, cheap expensive, good bad, right wrong, true false, dark bright, deep shallow,
safe dangerous, beautiful ugly, healthy sick, polite rude, possible impossible, calm angry, lazy busy,
public private, simple complex, same different"""
OTHER_OPPOSITES = """day night, summer winter, north south, east west, love hate, laugh cry, win lose, push pull,
remember forget, start finish, arrive leave, question answer, friend enemy, always never, inside outside,
before after, above below, near far, everything nothing, begin end, up down"""

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = word_list(
    """
    January February March April May June July August September October November December
    """
)
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
SEASONS = ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["fall"] * 3 + ["winter"]
TIME_UNITS = [("days", "week", 7), ("months", "year", 12), ("hours", "day", 24), ("minutes", "hour", 60),
              ("seconds", "minute", 60), ("weeks", "year", 52), ("seasons", "year", 4)]  # fmt: skip

COLORS = ["red", "blue", "green", "yellow", "white", "black", "brown", "orange", "gray", "pink", "purple"]
THING_COLORS = [
    tuple(row.split(", "))
    for row in [
        "grass, green",
        "snow, white",
        "blood, red",
        "the sky, blue",
        "the sun, yellow",
        "a banana, yellow",
        "a tomato, red",
        "a carrot, orange",
        "milk, white",
        "a lemon, yellow",
        "a cherry, red",
        "a frog, green",
        "chocolate, brown",
        "an elephant, gray",
        "a tree, green",
        "an orange, orange",
        "coffee, brown",
        "butter, yellow",
        "the ocean, blue",
        "a cloud, white",
        "a strawberry, red",
        "a pig, pink",
        "a mouse, gray",
        "rice, white",
        "a potato, brown",
        "corn, yellow",
        "the night, black",
        "a bear, brown",
        "fire, orange",
        "a cucumber, green",
    ]
]
COLOR_MIXES = [("blue", "yellow", "green"), ("red", "yellow", "orange"), ("red", "blue", "purple"),
               ("red", "white", "pink"), ("black", "white", "gray"), ("red", "green", "brown")]  # fmt: skip

# From small to big; any two may be compared.
SIZES = ["an ant", "a bee", "a mouse", "a cat", "a sheep", "a horse", "an elephant", "a house", "a mountain",
         "the moon", "the sun"]  # fmt: skip

LEGS = [("a dog", 4), ("a cat", 4), ("a horse", 4), ("a cow", 4), ("a spider", 8), ("an ant", 6), ("a bee", 6),
        ("a bird", 2), ("a duck", 2), ("a chicken", 2), ("a sheep", 4), ("a mouse", 4), ("a lion", 4),
        ("a snake", 0), ("a fish", 0), ("an elephant", 4)]  # fmt: skip
YOUNG = [("dog", "a puppy"), ("cat", "a kitten"), ("sheep", "a lamb"), ("bear", "a cub"), ("duck", "a duckling"),
         ("cow", "a calf"), ("pig", "a piglet"), ("chicken", "a chick")]  # fmt: skip
MAKERS = [("bees make", "sweet honey"), ("a baker bakes", "bread"), ("a cow gives us", "milk"),
          ("a chicken lays", "eggs"),
          ("a sheep gives us", "wool"), ("a farmer grows", "food"), ("a doctor helps", "sick people"),
          ("a teacher teaches", "children"), ("a pilot flies", "a plane"), ("a cook makes", "dinner"),
          ("a painter paints", "pictures"), ("a rabbit eats", "carrots"), ("a monkey eats", "bananas"),
          ("a lion eats", "meat"), ("a horse eats", "grass"), ("a mouse eats", "cheese")]  # fmt: skip
HOMES = [("fish", "in the water"), ("birds", "in a nest"), ("bees", "in a hive"), ("lions", "in Africa"),
         ("monkeys", "in the trees"), ("people", "in houses"), ("whales", "in the ocean"),
         ("spiders", "in a web"), ("cows", "on a farm"), ("wolves", "in the forest")]  # fmt: skip
USES = [("a knife", "to cut bread"), ("a pen", "to write"), ("a bed", "to sleep"), ("a key", "to open a door"),
        ("a clock", "to tell the time"), ("a cup", "to drink coffee"), ("a book", "to read"),
        ("a phone", "to call a friend"), ("a chair", "to sit"), ("a lamp", "to make light"),
        ("a coat", "to stay warm"), ("a ball", "to play a game"), ("soap", "to wash your hands"),
        ("an umbrella", "to stay dry in the rain")]  # fmt: skip
CATEGORIES = {
    "an animal": ["a dog", "a horse", "a tiger", "a whale", "a rabbit", "a wolf", "a monkey"],
    "a fruit": ["an apple", "a banana", "a cherry", "a lemon", "a strawberry"],
    "a vegetable": ["a carrot", "a potato", "a cucumber"],
    "a drink": ["water", "milk", "coffee", "tea"],
    "a color": ["red", "blue", "green", "purple", "yellow"],
    "a number": ["seven", "twelve", "thirty", "ninety"],
    "a country": ["France", "Japan", "Egypt", "Canada", "Spain"],
    "a city": ["Paris", "London", "Tokyo", "Cairo", "Rome"],
    "a month": ["June", "March", "August"],
    "a day": ["Friday", "Sunday", "Monday"],
    "a season": ["winter", "summer", "spring"],
    "a tool": ["a hammer", "a knife"],
    "a machine": ["a car", "a train", "a plane", "a computer"],
    "a planet": ["Mars", "Venus", "Earth"],
}

# id, answer; their questions are complete sentences (see domain_wordings.TALK)
TALK_ANSWERS = {
    "hello": "Hello, how can I help you?",
    "how": "I am fine, thank you.",
    "name": "My name is Joe.",
    "what": "I am a small computer model that can talk.",
    "morning": "Good morning to you too.",
    "night": "Good night and sleep well.",
    "thanks": "You are very welcome.",
    "bye": "Goodbye and see you soon.",
    "help": "I can answer small questions about the world.",
    "old": "I am very young, I was made this year.",
    "happy": "Yes, I am very happy today.",
    "hear": "Yes, I can hear you very well.",
    "sorry": "That is all right, my friend.",
    "afternoon": "Good afternoon, it is nice to hear you.",
    "home": "I live inside your computer.",
    "speak": "Yes, I can speak only English.",
}


@dataclass(frozen=True)
class Fact:
    """One question-answer pair without its wording.

    Args:
        id: Unique name that starts with the kind, such as `plus-34-8`.
        family: Group of kinds for reports: `arithmetic`, `numbers`, `capitals`, `opposites`, `calendar`, `colors`,
            `sizes`, `facts`, `kinds`, `talk`.
        kind: Kind of question, a key of the wordings.
        answer: The answer, a full sentence.
        slots: Values for the slots of a wording.
    """

    id: str
    family: str
    kind: str
    answer: str
    slots: dict[str, str] = field(default_factory=dict)


def number_words(number: int) -> str:
    """Spells out a number, hyphenated as in `thirty-four`.

    Args:
        number: From 0 to 100.

    Returns:
        The words, in lower case.

    Raises:
        ValueError: The number is outside 0..100.
    """
    if not 0 <= number <= 100:
        raise ValueError(f"{number} is outside the domain: numbers go from 0 to 100.")
    if number == 100:
        return "one hundred"
    if number < 20:
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


def sentence(text: str) -> str:
    """Adds a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def definite(thing: str) -> str:
    """Turns `a mouse` into `the mouse`: recognizers often miss an unstressed `a` at the start of a sentence."""
    return f"the {thing.split(' ', 1)[1]}" if thing.startswith(("a ", "an ")) else thing


def arithmetic_fact(kind: str, a: int, b: int) -> Fact:
    """Makes the fact of one sum (kind `plus`) or difference (`minus`)."""
    result = a + b if kind == "plus" else a - b
    words = {"a": number_words(a), "b": number_words(b)}
    answer = sentence(f"{words['a']} {kind} {words['b']} is {number_words(result)}")
    return Fact(f"{kind}-{a}-{b}", "arithmetic", kind, answer, words)


def arithmetic_facts() -> Iterator[Fact]:
    """Yields every sum (both orders) and every difference that is not negative, operands 0 to `MAX_OPERAND`."""
    for a in range(MAX_OPERAND + 1):
        for b in range(MAX_OPERAND + 1):
            yield arithmetic_fact("plus", a, b)
            if b <= a:
                yield arithmetic_fact("minus", a, b)


def number_facts() -> Iterator[Fact]:
    """Yields neighbors of 0 to 99, the bigger of two numbers, doubles and halves."""
    for n in range(100):
        word = number_words(n)
        yield Fact(f"after-{n}", "numbers", "next_number", sentence(f"{number_words(n + 1)} comes after {word}"),
                   {"a": word})  # fmt: skip
        if n:
            answer = sentence(f"{number_words(n - 1)} comes before {word}")
            yield Fact(f"before-{n}", "numbers", "previous_number", answer, {"a": word})
    # A stride coprime to 100 visits all first operands; the offsets give near and far pairs.
    for index in range(300):
        a = index * 37 % 100
        b = (a + 1 + index * index % 47) % 100
        big, small = number_words(max(a, b)), number_words(min(a, b))
        yield Fact(f"greater-{a}-{b}", "numbers", "greater", sentence(f"{big} is more than {small}"),
                   {"a": number_words(a), "b": number_words(b)})  # fmt: skip
    for n in range(1, MAX_OPERAND + 1):
        word, double = number_words(n), number_words(2 * n)
        yield Fact(f"double-{n}", "numbers", "double", sentence(f"two times {word} is {double}"), {"a": word})
        yield Fact(f"half-{2 * n}", "numbers", "half", sentence(f"half of {double} is {word}"), {"a": double})


def opposite_pairs() -> list[tuple[str, str]]:
    """Lists all pairs of opposites, in one direction."""
    table = ADJECTIVE_OPPOSITES + ", " + OTHER_OPPOSITES
    return [(pair.split()[0], pair.split()[1]) for pair in table.replace("\n", " ").split(", ")]


def _calendar_facts() -> Iterator[Fact]:
    # Both lists are cycles: Monday comes after Sunday.
    for names, kind in ((DAYS, "day"), (MONTHS, "month")):
        for index, name in enumerate(names):
            after, before = names[(index + 1) % len(names)], names[index - 1]
            yield Fact(
                f"{kind}-after-{index}", "calendar", f"{kind}_after", f"{after} comes after {name}.", {"a": name}
            )
            yield Fact(f"{kind}-before-{index}", "calendar", f"{kind}_before", f"{before} comes before {name}.",
                       {"a": name})  # fmt: skip
    for index, month in enumerate(MONTHS):
        yield Fact(f"month-days-{index}", "calendar", "month_days",
                   f"{month} has {number_words(MONTH_DAYS[index])} days.", {"a": month})  # fmt: skip
        yield Fact(f"month-order-{index}", "calendar", "month_order",
                   f"{month} is the {ORDINALS[index]} month of the year.", {"a": ORDINALS[index]})  # fmt: skip
        yield Fact(f"season-{index}", "calendar", "season", f"It is {SEASONS[index]} in {month}.", {"a": month})
    for parts, whole, count in TIME_UNITS:
        one = f"{'an' if whole == 'hour' else 'a'} {whole}"
        yield Fact(f"units-{parts}-{whole}", "calendar", "units",
                   f"There are {number_words(count)} {parts} in {one}.", {"parts": parts, "whole": one})  # fmt: skip


def _world_facts() -> Iterator[Fact]:
    for country, city, continent in COUNTRIES:
        yield Fact(f"capital-{country}", "capitals", "capital", f"The capital of {country} is {city}.", {"a": country})
        yield Fact(f"capital-of-{city}", "capitals", "capital_of", f"{city} is the capital of {country}.", {"a": city})
        yield Fact(f"continent-{country}", "capitals", "continent", f"{country} is in {continent}.", {"a": country})
    # Asked in both directions.
    for one, other in opposite_pairs():
        for a, b in ((one, other), (other, one)):
            yield Fact(f"opposite-{a}", "opposites", "opposite", f"The opposite of {a} is {b}.", {"a": a})
    for thing, color in THING_COLORS:
        yield Fact(f"color-{thing}", "colors", "color", f"The color of {thing} is {color}.", {"a": thing})
    for one, other, mix in COLOR_MIXES:
        for a, b in ((one, other), (other, one)):
            yield Fact(f"mix-{a}-{b}", "colors", "mix", sentence(f"{a} and {b} make {mix}"), {"a": a, "b": b})
    for i, small in enumerate(SIZES):
        for big in SIZES[i + 1 :]:
            for word, answer in (
                ("bigger", f"{definite(big)} is bigger than {definite(small)}"),
                ("smaller", f"{definite(small)} is smaller than {definite(big)}"),
            ):
                # Alternating order, so that neither place in the question gives the answer away.
                a, b = (small, big) if (i + SIZES.index(big) + (word == "bigger")) % 2 else (big, small)
                yield Fact(f"{word}-{a}-{b}", "sizes", word, sentence(answer), {"a": a, "b": b})


def _thing_facts() -> Iterator[Fact]:
    for animal, legs in LEGS:
        # "The snake has no legs" instead of "zero legs".
        count = number_words(legs) if legs else "no"
        yield Fact(f"legs-{animal}", "facts", "legs", sentence(f"{definite(animal)} has {count} legs"), {"a": animal})
    for animal, young in YOUNG:
        yield Fact(f"young-{animal}", "facts", "young", f"We call a baby {animal} {young}.", {"a": animal})
    for maker, product in MAKERS:
        # The last word is the verb, or "us" after it.
        subject, verb = maker.split(" ", 1) if maker.startswith("bees") else maker.rsplit(" ", 1)
        if verb == "us":
            subject, verb = subject.rsplit(" ", 1)
            yield Fact(f"gives-{subject}", "facts", "gives", sentence(f"{definite(maker)} {product}"), {"a": subject})
        else:
            # Questions need the infinitive ("what does a pilot fly") and the verb as it is ("what a pilot flies").
            verb = {"make": "make", "flies": "fly", "teaches": "teach"}.get(verb, verb.removesuffix("s"))
            auxiliary = "do" if subject == "bees" else "does"
            yield Fact(f"{verb}-{subject}", "facts", "does", sentence(f"{definite(maker)} {product}"),
                       {"a": subject, "verb": verb, "do": auxiliary, "third": maker.split()[-1]})  # fmt: skip
    for animals, home in HOMES:
        yield Fact(f"home-{animals}", "facts", "home", sentence(f"{animals} live {home}"), {"a": animals})
    for tool, use in USES:
        yield Fact(f"use-{tool}", "facts", "use", sentence(f"we use {tool} {use}"), {"a": tool})
    for category, members in CATEGORIES.items():
        for member in members:
            yield Fact(f"kind-{member}", "kinds", "kind", sentence(f"{definite(member)} is {category}"), {"a": member})


def all_facts() -> dict[str, Fact]:
    """Collects all facts of the domain.

    Returns:
        Id -> fact, in a fixed order.

    Raises:
        ValueError: Two facts share an id.
    """
    facts: dict[str, Fact] = {}
    talk = (Fact(f"talk-{name}", "talk", f"talk_{name}", answer) for name, answer in TALK_ANSWERS.items())
    for source in (arithmetic_facts(), number_facts(), _world_facts(), _calendar_facts(), _thing_facts(), talk):
        for fact in source:
            # Ids are parts of the ids of items, which have no spaces.
            fact = replace(fact, id=fact.id.replace(" ", "-"))
            # A table may give the same fact twice, which is no conflict.
            if fact.id in facts and facts[fact.id] != fact:
                raise ValueError(f"Two facts are called {fact.id!r}: give one of them another id.")
            facts[fact.id] = fact
    return facts
