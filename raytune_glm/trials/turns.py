"""Whose turn the devices are: pack hosts', or trials' that need workers of their own.

A host holds its device while it is up. For a trial that no host can take, hosts close and leave
their devices to its workers; they come back for trials that are theirs. Who came first is served
first: a host that is to close takes no new trial and lets those on it finish, and a device that an
older trial of the hosts waits for is given to no younger one. Nothing of Ray is known here. Read
next: `hosts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection


class Turns:
    """Deals out devices, each of which is a host's or lent to trials with workers of their own.

    What is decided is told to the functions that are given, in the order in which it is to happen.
    """

    def __init__(
        self,
        num_hosts: int,
        *,
        room_on: Callable[[Collection[int]], int],
        seat: Callable[[str, int], None],
        send_off: Callable[[str], None],
        close: Callable[[int], None],
        open_again: Callable[[int], None],
    ) -> None:
        """Begin with every device a host's.

        Args:
            num_hosts: Hosts, each with a device.
            room_on: How many trials can have their own workers at a time on some hosts' devices.
            seat: Told of a trial that is to go to a host.
            send_off: Told of a trial that is to start its own workers.
            close: Told of a host that is to leave its device; nobody is on it.
            open_again: Told of a host that is to come back to its device; nobody is on it.
        """
        self._hosts = set(range(num_hosts))
        self._room_on = room_on
        self._seat = seat
        self._send_off = send_off
        self._close = close
        self._open_again = open_again
        self._waiting: dict[str, bool] = {}
        """Trial -> whether it needs its own workers, in the order in which they came."""
        self._guests: dict[str, int] = {}
        """Trial on a host -> the host."""
        self._apart: set[str] = set()
        """Trials with their own workers."""
        self._lent: set[int] = set()

    @property
    def serving(self) -> set[int]:
        """The hosts that are up, or coming up."""
        return self._hosts - self._lent

    def least_busy(self, hosts: Collection[int]) -> int:
        """The host with the fewest trials, of some."""
        return min(hosts, key=self._num_guests)

    def is_waiting(self, trial: str) -> bool:
        """Whether a trial has not had its turn."""
        return trial in self._waiting

    def arrive(self, trial: str, *, needs_workers: bool) -> None:
        """A trial has come.

        Args:
            trial: Its name.
            needs_workers: Whether no host can take it.
        """
        self._waiting[trial] = needs_workers
        self._settle()

    def leave(self, trial: str) -> None:
        """A trial is over, set aside, or waits no more."""
        self._waiting.pop(trial, None)
        self._guests.pop(trial, None)
        self._apart.discard(trial)
        self._settle()

    def lose(self, host: int, *, other: int | None = None) -> None:
        """A host is gone for good.

        The last one stays, so that those who come to it learn why nobody is there.

        Args:
            host: The host.
            other: The one that its trials are with now, if they are.
        """
        if len(self._hosts) > 1:
            self._hosts.discard(host)
        if other is not None:
            self._guests = {t: other if at == host else at for t, at in self._guests.items()}
        self._settle()

    def _settle(self) -> None:
        """Serve those that wait, as far as there are devices."""
        closing: set[int] = set()
        """Hosts that are to take nobody, for an older trial with workers of its own."""
        is_awaited, is_kept = False, False
        """Whether an older trial waits: for workers of its own, or for a host to come back."""
        for trial, needs_workers in list(self._waiting.items()):
            if is_kept:
                return
            if needs_workers:
                if not is_awaited and not self._has_room():
                    closing = self._to_close()
                    if closing.isdisjoint(self._guests.values()):
                        self._lend(closing)
                if self._has_room() or not self._room_on(self._hosts):
                    # Where nodes are gone and none has room for it, it waits for them to come back.
                    del self._waiting[trial]
                    self._apart.add(trial)
                    self._send_off(trial)
                else:
                    is_awaited = True
            else:
                host = self._host_for(closing, may_return=not is_awaited)
                is_kept = host is None
                if host is not None:
                    del self._waiting[trial]
                    self._guests[trial] = host
                    self._seat(trial, host)

    def _has_room(self) -> bool:
        """Whether one trial more can have its own workers on what is lent."""
        return self._room_on(self._lent) > len(self._apart)

    def _to_close(self) -> set[int]:
        """The least busy hosts, as many of them as one trial more needs the devices of.

        One host stays for the trials that are its, unless otherwise no trial of the other kind
        would ever come to its turn. Empty where that is not enough.
        """
        serving = sorted(self.serving, key=self._num_guests)
        most = len(serving) if not self._apart else len(serving) - 1
        for count in range(1, most + 1):
            if self._room_on(self._lent.union(serving[:count])) > len(self._apart):
                return set(serving[:count])
        return set()

    def _host_for(self, closing: Collection[int], *, may_return: bool) -> int | None:
        """The least busy host that takes trials, or an idle device's; None: there is none."""
        takes = sorted(self.serving.difference(closing), key=self._num_guests)
        if takes and self._num_guests(takes[0]) == 0:
            return takes[0]
        for host in sorted(self._lent & self._hosts) if may_return else ():
            if self._room_on(self._lent - {host}) >= len(self._apart):
                self._lent.remove(host)
                self._open_again(host)
                return host
        return takes[0] if takes else None

    def _num_guests(self, host: int) -> int:
        return sum(at == host for at in self._guests.values())

    def _lend(self, hosts: Collection[int]) -> None:
        for host in sorted(hosts):
            self._lent.add(host)
            self._close(host)
