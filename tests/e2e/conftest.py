"""Fixtures of the browser tests: windows of Chromium, each a user, and a line to chatd that can be cut."""

import os
import shutil
import socket
import threading

import pytest

from support.chatd import DEADLINE, until

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-background-timer-throttling", "--lang=en-US", "--window-size=1200,800")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Window:
    """One browser with a profile of its own, and the page in words a test reads well."""

    def __init__(self, driver):
        self.driver = driver
        self.driver.set_page_load_timeout(DEADLINE)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def open(self, url):
        self.driver.get(url)
        return self

    def sign_in(self, url, name):
        self.open(url)
        self.fill("name", name)
        self.driver.find_element("css selector", "#signin-form button").click()
        return self.wait_online()

    def fill(self, field, text):
        until(self.driver.find_element("id", field).is_displayed, f"the field {field} is there")
        self.driver.find_element("id", field).send_keys(text)

    def say(self, text):
        self.fill("text", text + "\n")

    def say_at_once(self, texts):
        """Faster than anybody types: all within one turn of the page's loop."""
        self.run("""for (const text of arguments[0]) {
                        document.getElementById('text').value = text;
                        document.getElementById('composer').requestSubmit();
                    }""", texts)

    def join(self, room):
        self.fill("join-name", room + "\n")
        until(lambda: self.text("room-name") == room, f"{room} is on show")
        return self.wait_online()

    def text(self, element):
        return self.run("return document.getElementById(arguments[0])?.innerText ?? ''", element)

    def messages(self):
        """The texts on show, from top to bottom."""
        return self.run("return [...document.querySelectorAll('.message .text')].map(e => e.textContent)")

    def pending(self):
        return self.run("return document.querySelectorAll('.message.pending').length")

    def state(self):
        return self.run("return document.getElementById('state').dataset.state")

    def wait_online(self):
        until(lambda: self.state() == "online" and self.text("room-name"), "the page is online")
        return self

    def wait_for(self, *texts):
        """Until exactly these are on show, all of them acknowledged."""
        try:
            until(lambda: self.messages() == list(texts) and not self.pending(), f"the page shows {texts}")
        except AssertionError as failure:
            raise AssertionError(f"{failure}; it shows {self.messages()}, {self.pending()} pending") from None
        return self


class Line:
    """A TCP relay in front of chatd. `cut` ends its connections and refuses new ones until `mend`."""

    def __init__(self, server):
        self.server = server
        self.whole = True
        self.websocket_port = None       # our side of it, towards chatd
        self.pairs = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def worker(self):
        """The worker that holds the page's WebSocket."""
        return self.server.worker_of(self.websocket_port)

    def cut(self):
        with self.lock:
            self.whole = False
            for pair in self.pairs:
                self._end(pair)
            self.pairs.clear()

    def mend(self):
        with self.lock:
            self.whole = True

    def close(self):
        self.listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                below, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                try:
                    if not self.whole:
                        raise ConnectionError
                    above = socket.create_connection(("127.0.0.1", self.server.port))
                except OSError:
                    below.close()
                    continue
                self.pairs.append((below, above))
            for pair in ((below, above), (above, below)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source, target):
        try:
            while data := source.recv(65536):
                if data.startswith(b"GET /ws "):
                    self.websocket_port = target.getsockname()[1]
                target.sendall(data)
        except OSError:
            pass
        self._end((source, target))

    @staticmethod
    def _end(pair):
        for one in pair:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


@pytest.fixture
def line():
    made = []

    def make(server):
        made.append(Line(server))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def window(tmp_path):
    """Opens browser windows. window(profile="ana") comes back to what an earlier one of that name kept."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip(f"no {'chromedriver' if browser else 'chromium'} on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    made = []

    def make(profile=None):
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in FLAGS + (f"--user-data-dir={tmp_path / (profile or f'window-{len(made)}')}",):
            options.add_argument(flag)
        service = webdriver.ChromeService(driver, log_output=os.devnull)
        made.append(Window(webdriver.Chrome(options, service)))
        return made[-1]

    yield make
    for one in made:
        one.driver.quit()
