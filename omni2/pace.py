"""Real time: how long a step takes with so many rows, and whether one more answer still leaves all of them in time."""

FORGET = 0.98  # of the weight of what was measured, at each further step: the last fifty count
PRIOR = 1.0  # steps that a guessed growth weighs, against one measured over a row more or less
SOUND = 0.2  # of a codec's new figure goes into the mean
SHARE = 0.9  # of the time of a frame may be spent; the rest is for prefills and for what else the machine does


class Pace:
    """Learns from the steps themselves: seconds a step = rest + growth × rows, by least squares, older steps fading.

    As long as all steps had as many rows, each row is taken to need half of its part of the step: more than it does
    where a step's time is that of reading the weights.  One step makes one frame of every answer, of `frame_seconds`.
    """

    def __init__(self, frame_seconds: float) -> None:
        self.frame_seconds = frame_seconds
        self._weight = self._rows = self._squares = self._seconds = self._products = 0.0
        self._sound = 0.0  # seconds of work on a second of sound

    def stepped(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        self._weight = FORGET * self._weight + 1
        self._rows = FORGET * self._rows + rows
        self._squares = FORGET * self._squares + rows * rows
        self._seconds = FORGET * self._seconds + seconds
        self._products = FORGET * self._products + rows * seconds

    def sounded(self, work: float, sound: float) -> None:
        """The codec worked so many seconds on so many seconds of sound."""
        ratio = work / sound
        self._sound = self._sound + SOUND * (ratio - self._sound) if self._sound else ratio

    def step_seconds(self, rows: int) -> float:
        """What a step of so many rows will take; 0 before the first."""
        if not self._weight:
            return 0.0
        mean, took = self._rows / self._weight, self._seconds / self._weight
        spread = self._squares - self._weight * mean * mean
        together = self._products - self._weight * mean * took
        growth = (together + PRIOR * took / (2 * mean)) / (spread + PRIOR)
        return took + max(growth, 0.0) * (rows - mean)

    def load(self, rows: int, speaking: int) -> float:
        """The share of real time that so many rows need, `speaking` of whose answers are spoken; 1 is just in time."""
        return self.step_seconds(rows) / self.frame_seconds + speaking * self._sound

    def allows(self, rows: int, speaking: int) -> bool:
        """Whether so many rows and spoken answers leave all of these in real time."""
        return self.load(rows, speaking) <= SHARE
