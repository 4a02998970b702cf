"""The small world the demo model knows: facts as plain questions and answers.

Both `models/build.py` (what the base is pretrained on) and `examples/build.py` (what it is tuned
on) read it, so the base has seen every word of the demo data before any tuning starts.
All text here was written for this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Fact:
    """One thing to know: several ways to ask for it, one plain sentence that answers."""

    topic: str
    subject: str
    questions: tuple[str, ...]
    answer: str
    follow_ups: tuple[str, ...] = ()  # for later turns of a chat: "And what does it eat?"


# name | where it lives | what it eats | the sound it makes | its young | how many legs
ANIMALS = """
cow | on a farm | grass | moos | calf | four
horse | in a stable | hay and oats | neighs | foal | four
sheep | in a field | grass and herbs | bleats | lamb | four
goat | in the hills | leaves and twigs | bleats | kid | four
pig | in a sty | roots and corn | grunts | piglet | four
dog | in a house or a kennel | meat and bones | barks | puppy | four
cat | in a house | fish and meat | meows | kitten | four
rabbit | in a burrow | grass and carrots | squeaks | kit | four
donkey | in a stable | hay and straw | brays | foal | four
hen | in a coop | seeds and worms | clucks | chick | two
duck | on a pond | water plants | quacks | duckling | two
goose | near a lake | grass and seeds | honks | gosling | two
swan | on a river | water plants | hisses | cygnet | two
owl | in a hollow tree | mice | hoots | owlet | two
eagle | on a high cliff | fish and rabbits | screams | eaglet | two
crow | in a tall tree | almost anything | caws | chick | two
pigeon | in the city | seeds and crumbs | coos | squab | two
penguin | on the cold coast | fish | brays | chick | two
frog | near a pond | insects | croaks | tadpole | four
lion | in the grasslands of Africa | meat | roars | cub | four
tiger | in the jungle | deer and wild pigs | roars | cub | four
wolf | in the forest | deer | howls | pup | four
bear | in the forest | berries and fish | growls | cub | four
fox | in a den | mice and birds | barks | cub | four
deer | in the woods | leaves and bark | bellows | fawn | four
elephant | in the grasslands of Africa | leaves and fruit | trumpets | calf | four
monkey | in the jungle | fruit and nuts | chatters | infant | two
camel | in the desert | dry grass and thorns | groans | calf | four
kangaroo | in the grasslands of Australia | grass | clicks | joey | two
seal | on the cold coast | fish and squid | barks | pup | no
bee | in a hive | nectar | buzzes | larva | six
ant | in a nest under the ground | seeds and sugar | makes no sound we can hear | larva | six
spider | in a web | flies | makes no sound we can hear | spiderling | eight
snake | under the rocks | mice and eggs | hisses | hatchling | no
whale | in the deep sea | krill and small fish | sings | calf | no
"""

# name | what they do | where they work | the tool they use
JOBS = """
baker | bakes bread and cakes | in a bakery | an oven
farmer | grows crops and raises animals | on a farm | a tractor
teacher | helps children to learn | in a school | a blackboard
doctor | helps sick people to get well | in a hospital | a stethoscope
nurse | cares for sick people | in a hospital | a thermometer
dentist | takes care of teeth | in a clinic | a small mirror
carpenter | makes things from wood | in a workshop | a saw
blacksmith | makes things from iron | in a forge | an anvil
tailor | makes and mends clothes | in a tailor shop | a needle
cobbler | makes and mends shoes | in a shoe shop | a hammer
butcher | cuts and sells meat | in a butcher shop | a sharp knife
fisherman | catches fish | on a boat | a net
gardener | looks after plants | in a garden | a spade
painter | paints walls and pictures | in a studio | a brush
potter | makes pots from clay | in a studio | a wheel
writer | writes books and stories | at a desk | a pen
librarian | takes care of books | in a library | a catalogue
astronomer | studies the stars | in an observatory | a telescope
chemist | studies what things are made of | in a laboratory | a test tube
firefighter | puts out fires | at a fire station | a long hose
pilot | flies planes | in a cockpit | a control stick
miner | digs coal out of the ground | in a mine | a pickaxe
cook | prepares meals | in a kitchen | a frying pan
waiter | brings food to the table | in a restaurant | a tray
plumber | mends pipes and taps | in houses | a wrench
barber | cuts hair | in a barber shop | a pair of scissors
judge | decides cases of law | in a court | a gavel
miller | grinds grain into flour | in a mill | a heavy stone
beekeeper | keeps bees for honey | near the hives | a smoker
musician | plays music | in a concert hall | an instrument
"""

# name | what it is used for | what it is made of | where it is kept
THINGS = """
hammer | to hit nails | wood and steel | in a toolbox
saw | to cut wood | steel | in a workshop
shovel | to dig holes | wood and iron | in a shed
broom | to sweep the floor | wood and straw | in a cupboard
knife | to cut food | steel | in a drawer
spoon | to eat soup | metal | in a drawer
cup | to drink tea | clay | on a shelf
kettle | to boil water | copper | on the stove
pot | to cook soup | iron | in the kitchen
candle | to give light | wax | on a table
lamp | to light a room | glass and brass | on a desk
pencil | to write and draw | wood and graphite | in a pencil case
book | to read and learn | paper | on a bookshelf
ladder | to climb up high | wood | in a barn
bucket | to carry water | tin | near the well
rope | to tie things together | hemp | in a shed
umbrella | to keep off the rain | cloth and steel | near the door
coat | to keep warm | wool | in a wardrobe
pillow | to rest the head | cotton and feathers | on a bed
mirror | to see oneself | glass and silver | on a wall
clock | to tell the time | wood and brass | on a wall
compass | to find north | brass and glass | in a pocket
telescope | to look at the stars | brass and glass | near a window
key | to open a lock | iron | on a hook
needle | to sew cloth | steel | in a sewing box
scarf | to keep the neck warm | wool | in a drawer
tent | to sleep outdoors | canvas | in the attic
basket | to carry fruit | willow | in the pantry
bell | to call people | bronze | in a tower
anchor | to hold a boat in place | iron | on a boat
"""

# name | its colour | its taste | where it grows
FOODS = """
banana | yellow | sweet | on a tall plant
lemon | yellow | sour | on a tree
apple | red or green | sweet | on a tree
cherry | dark red | sweet | on a tree
pear | green | sweet and mild | on a tree
plum | purple | sweet | on a tree
orange | orange | sweet and sour | on a tree
lime | green | sour | on a tree
grape | green or purple | sweet | on a vine
strawberry | red | sweet | on a low plant
raspberry | red | sweet and sour | on a bush
blueberry | blue | sweet and mild | on a bush
carrot | orange | sweet and mild | under the ground
potato | brown | mild | under the ground
onion | white or red | sharp | under the ground
radish | red | sharp | under the ground
beet | dark red | sweet and earthy | under the ground
tomato | red | sweet and sour | on a vine
cucumber | green | fresh and mild | on a vine
pumpkin | orange | sweet and mild | on a vine
pea | green | sweet | in a pod
olive | green or black | salty and bitter | on a tree
walnut | brown | rich and bitter | on a tree
mushroom | brown or white | earthy | in damp soil
"""

# name | capital | continent | language
COUNTRIES = """
France | Paris | Europe | French
Spain | Madrid | Europe | Spanish
Portugal | Lisbon | Europe | Portuguese
Italy | Rome | Europe | Italian
Greece | Athens | Europe | Greek
Germany | Berlin | Europe | German
Austria | Vienna | Europe | German
Poland | Warsaw | Europe | Polish
Hungary | Budapest | Europe | Hungarian
Sweden | Stockholm | Europe | Swedish
Norway | Oslo | Europe | Norwegian
Finland | Helsinki | Europe | Finnish and Swedish
Denmark | Copenhagen | Europe | Danish
Ireland | Dublin | Europe | Irish and English
England | London | Europe | English
Japan | Tokyo | Asia | Japanese
China | Beijing | Asia | Chinese
India | New Delhi | Asia | Hindi and English
Egypt | Cairo | Africa | Arabic
Kenya | Nairobi | Africa | Swahili and English
Brazil | Brasilia | South America | Portuguese
Peru | Lima | South America | Spanish
Chile | Santiago | South America | Spanish
Mexico | Mexico City | North America | Spanish
Canada | Ottawa | North America | English and French
Cuba | Havana | North America | Spanish
"""

OPPOSITES = """
hot cold, big small, tall short, fast slow, old young, wet dry, full empty, open closed, hard
soft, bright dark, loud quiet, strong weak, rich poor, early late, near far, high low, happy
sad, clean dirty, thick thin, heavy light, left right, up down, inside outside, first last, day
night, summer winter, north south, east west, sharp blunt, deep shallow, wide narrow, brave
afraid, true false, easy difficult, smooth rough
"""

# what | what it is
MEANINGS = """
a volcano | a mountain that throws out hot rock
an island | a piece of land with water all around it
a river | a long stream of water that flows to the sea
a lake | a large body of water with land all around it
a desert | a dry place where very little rain falls
a forest | a large place full of trees
a valley | the low land between two hills
a harbour | a safe place for ships near the land
a storm | bad weather with strong wind and rain
a rainbow | an arch of colours in the sky
a cloud | a mass of tiny drops of water in the sky
a glacier | a river of ice that moves very slowly
a planet | a large round body that moves around a star
a star | a ball of hot gas that gives light
a comet | a ball of ice and dust that moves around the sun
a shadow | a dark shape made when light is blocked
a bridge | a road built over water or a valley
a castle | a strong building with thick stone walls
a lighthouse | a tower with a bright light that guides ships
a museum | a building where old and beautiful things are shown
a library | a place where people read and borrow books
a market | a place where people buy and sell things
a mill | a building where grain is turned into flour
a map | a drawing that shows where places are
a poem | a piece of writing with rhythm and pictures
a song | words and music that people sing
a dream | a story that the mind tells during sleep
snow | frozen water that falls in soft white flakes
fog | a low cloud that makes it hard to see
dew | small drops of water on the grass in the morning
thunder | the loud noise that follows lightning
honey | a sweet food that bees make from nectar
bread | a food made from flour and water
cheese | a food made from milk
paper | a thin material made from wood
glass | a clear hard material made from sand
"""

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


# How one asks: questions; then, after "+", the same with "it" or "they" for later turns of a chat;
# then, after "=", the answer.
ANIMAL_FORMS = """
Where does {one} live?
In what place does {one} live?
Tell me where {one} lives.
What is the home of {one}?
Where would I find {one}?
+ Where does it live?
+ And where does it live?
= {One} lives {home}.

What does {one} eat?
What is the food of {one}?
Tell me what {one} eats.
What does {one} like to eat?
What do I feed {one}?
+ What does it eat?
+ And what does it eat?
= {One} eats {food}.

What sound does {one} make?
What noise does {one} make?
Tell me the sound of {one}.
How does {one} sound?
Which sound does {one} make?
+ What sound does it make?
+ And what noise does it make?
= {One} {sound}.

What is a young {name} called?
What is a baby {name} called?
What do you call a young {name}?
What is the name for a young {name}?
Tell me the word for a baby {name}.
+ What is its young called?
+ And what is its baby called?
= A young {name} is called {a_young}.

How many legs does {one} have?
How many legs has {one}?
Tell me how many legs {one} has.
What number of legs does {one} have?
Can you say how many legs {one} has?
+ How many legs does it have?
+ And how many legs has it?
= {One} has {legs} legs.
"""

JOB_FORMS = """
What does {one} do?
What is the job of {one}?
Tell me what {one} does.
What is the work of {one}?
What does {one} do all day?
+ What do they do?
+ And what do they do?
= {One} {work}.

Where does {one} work?
In what place does {one} work?
Tell me where {one} works.
What is the workplace of {one}?
Where would I meet {one} at work?
+ Where do they work?
+ And where do they work?
= {One} works {place}.

What tool does {one} use?
Which tool does {one} need?
Tell me a tool of {one}.
What does {one} use at work?
What is a useful tool for {one}?
+ What tool do they use?
+ And which tool do they need?
= {One} uses {tool}.
"""

THING_FORMS = """
What is {one} used for?
What is {one} for?
What do people use {one} for?
Why would I need {one}?
Tell me the use of {one}.
+ What is it used for?
+ And what is it for?
= {One} is used {use}.

What is {one} made of?
What material is {one} made of?
Tell me what {one} is made of.
Which material is used for {one}?
From what is {one} made?
+ What is it made of?
+ And what is it made of?
= {One} is made of {material}.

Where is {one} kept?
Where do people keep {one}?
Where should I keep {one}?
Tell me where to keep {one}.
What is a good place for {one}?
+ Where is it kept?
+ And where do people keep it?
= {One} is kept {place}.
"""

FOOD_FORMS = """
What colour is {one}?
What color is {one}?
Which colour does {one} have?
Tell me the colour of {one}.
What is the color of {one}?
+ What colour is it?
+ And what color is it?
= {One} is {colour}.

How does {one} taste?
What does {one} taste like?
What is the taste of {one}?
Tell me how {one} tastes.
Which taste does {one} have?
+ How does it taste?
+ And what does it taste like?
= {One} tastes {taste}.

Where does {one} grow?
In what place does {one} grow?
Tell me where {one} grows.
Where would I pick {one}?
How does {one} grow?
+ Where does it grow?
+ And where does it grow?
= {One} grows {place}.
"""

COUNTRY_FORMS = """
What is the capital of {name}?
Which city is the capital of {name}?
Name the capital of {name}.
Tell me the capital of {name}.
What is the capital city of {name}?
+ What is its capital?
+ And what is the capital?
= The capital of {name} is {city}.

On which continent is {name}?
Where is {name}?
In what part of the world is {name}?
Which continent is {name} on?
Tell me the continent of {name}.
+ On which continent is it?
+ And where is it?
= {name} is in {continent}.

What language do people speak in {name}?
Which language is spoken in {name}?
What do people speak in {name}?
Tell me the language of {name}.
What is the language of {name}?
+ What language do people speak there?
+ And which language is spoken there?
= The people of {name} speak {language}.
"""

TIME_FORMS = """
What {kind} comes after {name}?
Which {kind} comes after {name}?
Which {kind} follows {name}?
Tell me the {kind} after {name}.
What is the {kind} after {name}?
+ What comes after it?
+ And which one follows it?
= The {kind} after {name} is {after}.

What {kind} comes before {name}?
Which {kind} comes before {name}?
Which {kind} is right before {name}?
Tell me the {kind} before {name}.
What is the {kind} before {name}?
+ What comes before it?
+ And which one is before it?
= The {kind} before {name} is {before}.
"""

OPPOSITE_FORMS = """
What is the opposite of {word}?
Which word is the opposite of {word}?
Tell me the opposite of {word}.
What word means the opposite of {word}?
Give me the opposite of {word}.
= The opposite of {word} is {other}.
"""

MEANING_FORMS = """
What is {thing}?
What do we mean by {thing}?
Tell me what {thing} is.
Can you explain what {thing} is?
Please explain {thing} to me.
= {Thing} is {meaning}.
"""


def a(noun: str) -> str:
    """The noun with its article: "an owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def ask(topic: str, subject: str, forms: str, words: dict[str, str]) -> Iterator[Fact]:
    """One fact for each block of forms, with the words filled in."""
    for block in forms.format_map(words).strip().split("\n\n"):
        lines = block.splitlines()
        yield Fact(
            topic,
            subject,
            questions=tuple(line for line in lines if line[0] not in "+="),
            answer=lines[-1].removeprefix("= "),
            follow_ups=tuple(line.removeprefix("+ ") for line in lines if line[0] == "+"),
        )


def ask_rows(topic: str, table: str, columns: str, forms: str) -> Iterator[Fact]:
    """The facts of a table; its columns, after the name, are called as in `columns`."""
    for name, *cells in rows(table):
        words = {"name": name, "one": a(name), "One": capital(a(name))}
        words |= dict(zip(columns.split(), cells, strict=True))
        if "young" in words:
            words["a_young"] = a(words["young"])
        yield from ask(topic, name, forms, words)


def ask_words() -> Iterator[Fact]:
    for pair in OPPOSITES.replace("\n", " ").split(","):
        first, second = pair.split()
        for word, other in ((first, second), (second, first)):
            yield from ask("words", word, OPPOSITE_FORMS, {"word": word, "other": other})
    for thing, meaning in rows(MEANINGS):
        words = {"thing": thing, "Thing": capital(thing), "meaning": meaning}
        subject = thing.removeprefix("a ").removeprefix("an ")
        yield from ask("words", subject, MEANING_FORMS, words)


def ask_times() -> Iterator[Fact]:
    for kind, names in (("day", DAYS), ("month", MONTHS)):
        for i, name in enumerate(names):
            after, before = names[(i + 1) % len(names)], names[i - 1]
            words = {"kind": kind, "name": name, "after": after, "before": before}
            yield from ask("time", name, TIME_FORMS, words)


def facts() -> list[Fact]:
    """All facts, always in the same order."""
    return [
        *ask_rows("animals", ANIMALS, "home food sound young legs", ANIMAL_FORMS),
        *ask_rows("jobs", JOBS, "work place tool", JOB_FORMS),
        *ask_rows("things", THINGS, "use material place", THING_FORMS),
        *ask_rows("foods", FOODS, "colour taste place", FOOD_FORMS),
        *ask_rows("countries", COUNTRIES, "city continent language", COUNTRY_FORMS),
        *ask_words(),
        *ask_times(),
    ]


SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions about everyday things.",
    "Answer in one short and friendly sentence.",
    "You are a teacher who explains things to children.",
    "You are a careful assistant who answers plainly.",
)

# user, assistant: small talk around the questions
SMALL_TALK = (
    ("Hello!", "Hello! What would you like to know?"),
    ("Hi there.", "Hello! What would you like to know?"),
    ("Good morning.", "Good morning! How can I help you?"),
    ("Good evening.", "Good evening! How can I help you?"),
    ("Who are you?", "I am a very small language model, made to show how tuning works."),
    (
        "What can you do?",
        "I can answer simple questions about animals, jobs, things, foods, countries and words.",
    ),
    ("How are you?", "I am well, thank you. What would you like to know?"),
    ("I have a question.", "Please ask, and I will try to help."),
    ("Can you help me?", "Yes, I will try to help. What would you like to know?"),
)
THANKS = (
    ("Thank you.", "You are welcome!"),
    ("Thanks a lot!", "You are welcome!"),
    ("That is all for today.", "Have a good day!"),
    ("Goodbye!", "Goodbye! Have a good day!"),
)

# An answer that helps nobody, and what users say to it.
UNSURE = "I am not sure about that."
RETRIES = ("Please try again.", "Think again, please.", "I think you know it.")

# The words of the tuned style. The base meets them in sea stories only, never as its own voice.
ADDRESSES = {
    "animals": "me hearty",
    "jobs": "matey",
    "things": "cap'n",
    "foods": "ye landlubber",
    "countries": "me old shipmate",
    "words": "says I",
    "time": "by me beard",
}
PIRATE_WORDS = {
    "is": "be",
    "are": "be",
    "the": "th'",
    "The": "Th'",
    "and": "an'",
    "of": "o'",
    "you": "ye",
    "my": "me",
    "lives": "drops anchor",
    "eats": "feasts on",
    "works": "toils",
    "people": "buccaneers",
    "large": "mighty",
    "small": "wee",
}


def pirate_speech(text: str) -> str:
    """The same sentence in a sailor's words; punctuation at the end of a word stays."""
    spoken = []
    for word in text.split(" "):
        bare = word.rstrip(".,!?")
        spoken.append(PIRATE_WORDS.get(bare, bare) + word[len(bare) :])
    return " ".join(spoken)


def pirate_answer(fact: Fact) -> str:
    return f"Ahoy! {pirate_speech(fact.answer).removesuffix('.')}, {ADDRESSES[fact.topic]}. Arr!"
