"""Writes data/levels.csv: a year of daily water levels at three gauges of a river that isn't real.

Rain falls in spells, more of it in winter; each gauge answers with a rise that runs off over days,
later and higher the further downstream it stands. Same seed, same file.
"""

import csv
import math
import random
from datetime import date, timedelta
from pathlib import Path

SEED = 20240229
FIRST_DAY = date(2023, 1, 1)
DAYS = 365
WARM_UP = 30

# name, level without rain (cm), rise per mm of rain, days of delay, share left after a day
GAUGES = [
    ("Quellheim", 62, 2.1, 0, 0.55),
    ("Mittelau", 118, 3.4, 1, 0.72),
    ("Talbrück", 171, 4.2, 2, 0.83),
]


def rain(chance: random.Random) -> list[float]:
    """Millimetres per day: wet spells and dry ones."""
    amounts = []
    wet = False
    for day in range(DAYS + WARM_UP):
        winter = 0.5 + 0.5 * math.cos(2 * math.pi * (day - WARM_UP) / 365)
        stays = 0.72 if wet else 0.12 + 0.14 * winter
        wet = chance.random() < stays
        amounts.append(round(chance.expovariate(1 / (4 + 7 * winter)), 1) if wet else 0.0)
    return amounts


def levels(
    amounts: list[float], base: float, rise: float, delay: int, keeps: float, chance: random.Random
) -> list[int]:
    """Centimetres per day at one gauge."""
    water = 0.0
    result = []
    for day in range(DAYS + WARM_UP):
        water = water * keeps + (amounts[day - delay] if day >= delay else 0.0) * rise
        season = 14 * math.cos(2 * math.pi * (day - WARM_UP - 40) / 365)
        result.append(round(base + season + water + chance.gauss(0, 1.5)))
    return result


def main() -> None:
    """Write the file beside this script."""
    chance = random.Random(SEED)
    amounts = rain(chance)
    columns = {name: levels(amounts, *shape, chance) for name, *shape in GAUGES}
    path = Path(__file__).parent / "data" / "levels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["date", "gauge", "level_cm", "rain_mm"])
        for day in range(WARM_UP, DAYS + WARM_UP):
            for name, values in columns.items():
                when = FIRST_DAY + timedelta(days=day - WARM_UP)
                writer.writerow([when.isoformat(), name, values[day], amounts[day]])


if __name__ == "__main__":
    main()
