import signal
import threading

import pytest

from nonlocalnn.train.signals import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_notes_a_signal_and_puts_the_handlers_back(number):
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert stop.signal_number == 0
        signal.raise_signal(number)
        assert stop.signal_number == number
    assert signal.getsignal(number) is before


def test_second_interrupt_aborts():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_handlers_stay():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with stop_on_signal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.signal_number))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, 0)]
