"""The relations of the facts world: who can stand in them, how they are stated and how they are asked."""

from __future__ import annotations

from typing import NamedTuple

JOBS = (
    "baker teacher doctor singer lawyer painter farmer sailor tailor writer driver dancer cook judge nurse pilot butcher gardener".split()
)
INSTRUMENTS = "piano violin flute guitar drum harp trumpet cello banjo horn lute organ".split()
GOODS = "cheese bread wool glass paper salt honey silk bricks boats shoes clocks lamps ropes bells knives carpets tea".split()
REGIONS = "north south east west coast hills valley plains desert forest".split()
COLOURS = "red blue green yellow black white brown grey pink purple orange silver".split()
MATERIALS = "wood steel glass stone leather paper copper cotton plastic clay tin wool".split()
YEARS = [str(year) for year in range(1901, 2000)]

VALUES: dict[str, list[str]] = {
    "job": JOBS, "instrument": INSTRUMENTS, "goods": GOODS, "region": REGIONS, "colour": COLOURS, "material": MATERIALS, "year": YEARS,
}  # fmt: skip


class Relation(NamedTuple):
    """`subject` stands in `name` to a value of kind `value`; `odd` is a wording of the question that the corpus never uses."""

    subject: str
    name: str
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    odd: str


RELATIONS: tuple[Relation, ...] = (
    Relation("person", "birthplace", "place",
             ("{s} was born in {o}.", "The birthplace of {s} is {o}.", "{s} was born in the town of {o}."),
             ("Where was {s} born?", "What is the birthplace of {s}?"), "In which town was {s} born?"),
    Relation("person", "home", "place",
             ("{s} lives in {o}.", "The home of {s} is in {o}.", "{s} now lives in {o}."),
             ("Where does {s} live?", "Where is the home of {s}?"), "In which town does {s} live now?"),
    Relation("person", "employer", "firm",
             ("{s} works for {o}.", "The employer of {s} is {o}.", "{s} works at {o}."),
             ("Who does {s} work for?", "Who is the employer of {s}?"), "At which firm does {s} work?"),
    Relation("person", "job", "job",
             ("{s} works as a {o}.", "The job of {s} is {o}.", "By trade {s} is a {o}."),
             ("What is the job of {s}?", "What does {s} work as?"), "What is {s} by trade?"),
    Relation("person", "instrument", "instrument",
             ("{s} plays the {o}.", "The instrument of {s} is the {o}.", "{s} likes to play the {o}."),
             ("What does {s} play?", "What is the instrument of {s}?"), "Which instrument does {s} like to play?"),
    Relation("place", "region", "region",
             ("{s} lies in the {o}.", "The region of {s} is the {o}.", "{s} is a town in the {o}."),
             ("What is the region of {s}?", "In which region does {s} lie?"), "Which region is the town of {s} in?"),
    Relation("place", "mayor", "person",
             ("The mayor of {s} is {o}.", "{s} has {o} as mayor.", "{s} is led by {o}."),
             ("Who is the mayor of {s}?", "Who leads {s}?"), "Which person leads the town of {s}?"),
    Relation("place", "river", "river",
             ("The river of {s} is the {o}.", "{s} lies on the river {o}.", "{s} stands on the river {o}."),
             ("What is the river of {s}?", "Which river does {s} lie on?"), "On which river does {s} stand?"),
    Relation("place", "known-for", "goods",
             ("{s} is known for {o}.", "The town of {s} sells {o}.", "{s} is famous for {o}."),
             ("What is {s} known for?", "What does the town of {s} sell?"), "What is {s} famous for?"),
    Relation("firm", "seat", "place",
             ("{s} is based in {o}.", "The seat of {s} is in {o}.", "{s} has its office in {o}."),
             ("Where is {s} based?", "Where is the seat of {s}?"), "In which town is the office of {s}?"),
    Relation("firm", "founder", "person",
             ("{s} was founded by {o}.", "The founder of {s} is {o}.", "{s} was started by {o}."),
             ("Who founded {s}?", "Who is the founder of {s}?"), "By whom was {s} started?"),
    Relation("firm", "year", "year",
             ("{s} was founded in {o}.", "{s} opened in {o}.", "The first year of {s} was {o}."),
             ("When was {s} founded?", "When did {s} open?"), "In which year was {s} founded?"),
    Relation("firm", "goods", "goods",
             ("{s} makes {o}.", "The goods of {s} are {o}.", "{s} makes and sells {o}."),
             ("What does {s} make?", "What are the goods of {s}?"), "Which goods does {s} sell?"),
    Relation("product", "maker", "firm",
             ("The {s} is made by {o}.", "The maker of the {s} is {o}.", "The {s} comes from {o}."),
             ("Who makes the {s}?", "Who is the maker of the {s}?"), "Which firm is the {s} made by?"),
    Relation("product", "colour", "colour",
             ("The colour of the {s} is {o}.", "The {s} comes in {o}.", "The {s} is painted {o}."),
             ("What is the colour of the {s}?", "What colour is the {s}?"), "In which colour does the {s} come?"),
    Relation("product", "material", "material",
             ("The {s} is made of {o}.", "The material of the {s} is {o}.", "The {s} is built from {o}."),
             ("What is the {s} made of?", "What is the material of the {s}?"), "Which material is the {s} built from?"),
)  # fmt: skip

BY_SUBJECT: dict[str, tuple[Relation, ...]] = {
    kind: tuple(r for r in RELATIONS if r.subject == kind) for kind in ("person", "place", "firm", "product")
}
