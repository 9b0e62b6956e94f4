"""The built-in page in Chromium: people in two windows chat with each other over a real chatd."""

import re

import pytest

from support.chatd import until

SCRIPT = "<script>document.title = 'owned'</script><b>&amp;</b>"


@pytest.fixture
def site(chatd):
    return chatd(2)


@pytest.fixture
def ana_and_bob(site, window):
    ana = window().sign_in(site.url, "ana")
    bob = window().sign_in(site.url, "bob")
    for page in (ana, bob):
        until(lambda: "2" in page.text("members-title"), "they see each other")
    return ana, bob


def test_files_of_the_page_have_their_types_and_nothing_inline_or_from_elsewhere(site):
    kinds = {"/": "text/html", "/chat.css": "text/css", "/chat.js": "text/javascript",
             "/client.js": "text/javascript"}
    for path, kind in kinds.items():
        status, headers, body = site.get(path)
        assert status == 200
        assert headers.get_content_type() == kind
        assert not re.search(rb"https?://|<style|\sstyle=|<script>|\son\w+=\"|innerHTML", body)
        assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_a_message_is_seen_in_both_windows(ana_and_bob):
    ana, bob = ana_and_bob
    ana.say("hello")
    bob.wait_for("hello")
    bob.say("hello yourself")
    for page in ana_and_bob:
        page.wait_for("hello", "hello yourself")


def test_typing_is_shown_and_ends_with_the_message(ana_and_bob):
    ana, bob = ana_and_bob
    ana.fill("text", "hm")
    until(lambda: bob.text("typing") == "ana is typing…", "bob sees ana typing")
    ana.fill("text", "!\n")
    bob.wait_for("hm!")
    until(lambda: bob.text("typing") == "", "ana is done")


def test_a_script_tag_is_shown_as_characters(ana_and_bob):
    ana, bob = ana_and_bob
    ana.say(SCRIPT)
    bob.wait_for(SCRIPT)
    bob.say(SCRIPT)
    for page in ana_and_bob:
        page.wait_for(SCRIPT, SCRIPT)
        assert page.run("return document.title").endswith("chatd")
        assert page.run("return document.querySelectorAll('#messages script, .text b').length") == 0


def test_members_come_and_go(ana_and_bob):
    ana, bob = ana_and_bob
    until(lambda: ana.text("members-list").split("\n")[1::2] == ["ana", "bob"], "both are listed")
    bob.open("about:blank")
    until(lambda: "bob" not in ana.text("members-list"), "bob is gone from the list")
    bob.driver.back()
    bob.wait_online()
    until(lambda: "bob" in ana.text("members-list"), "bob is back")


def test_rooms_are_apart_and_count_what_is_unread(ana_and_bob):
    ana, bob = ana_and_bob
    for page in ana_and_bob:
        page.join("кухня 2")
    bob.join("general")
    ana.say("only here")
    until(lambda: "кухня 2\n1" in bob.text("mine"), "bob's list counts one unread message")
    assert bob.messages() == []
    bob.open(bob.run("return location.origin + '/#' + encodeURIComponent('кухня 2')")).wait_for("only here")


def test_a_refused_name_and_room_are_explained(site, window):
    page = window().open(site.url)
    page.fill("name", "no/slash")
    page.driver.find_element("css selector", "#signin-form button").click()
    until(lambda: page.text("signin-error"), "the refusal is shown")
    page.run("document.getElementById('name').value = ''")
    page.fill("name", "ana\n")
    page.wait_online()
    page.fill("join-name", "no/slash\n")
    until(lambda: "no/slash" in page.text("notice"), "the refusal is shown")
    until(lambda: page.text("room-name") == "general", "the page is back where it was")


def test_too_fast_messages_are_held_back_and_sent_in_order(chatd, window):
    slow = chatd(1, env={"MESSAGE_RATE_LIMIT": "120"})
    page = window().sign_in(slow.url, "ana")
    texts = [f"m{i}" for i in range(125)]
    page.say_at_once(texts)
    page.wait_for(*texts)


def test_older_messages_come_when_scrolled_to(site, window):
    page = window().sign_in(site.url, "ana")
    texts = [f"m{i}" for i in range(180)]
    page.say_at_once(texts)
    page.wait_for(*texts)
    page.driver.refresh()
    page.wait_online().wait_for(*texts[-50:])
    until(lambda: page.run("document.getElementById('log').scrollTop = 0") or page.messages() == texts,
          "everything is loaded")


def test_history_is_there_after_chatd_and_the_browser_were_closed(site, window):
    page = window(profile="ana").sign_in(site.url, "ana").join("diary")
    page.say("dear diary")
    page.say("bye")
    page.wait_for("dear diary", "bye")
    page.driver.quit()
    site.stop()
    site.start()
    again = window(profile="ana").open(site.url)
    again.wait_online()
    again.open(site.url + "/#diary")
    again.wait_for("dear diary", "bye")
    assert again.text("me-name") == "ana"


def test_an_open_page_lives_through_a_restart(site, ana_and_bob):
    ana, bob = ana_and_bob
    ana.run("window.stillMe = true")
    ana.say("before")
    bob.wait_for("before")
    site.stop()
    until(lambda: ana.state() != "online", "ana's page notices")
    ana.say("meanwhile")
    assert ana.pending() == 1
    site.start()
    for page in ana_and_bob:
        page.wait_for("before", "meanwhile")
    assert ana.run("return window.stillMe")


def test_pages_come_back_by_themselves_after_their_worker_was_killed(site, ana_and_bob):
    ana, bob = ana_and_bob
    ana.run("window.stillMe = true")
    for pid in site.workers():
        site.kill_pid(pid)
        site.wait_respawned(pid)
    ana.say("still there?")
    bob.say("yes")
    for page in ana_and_bob:
        until(lambda: len(page.messages()) == 2 and not page.pending(), "both messages are here")
    assert ana.messages() == bob.messages()
    assert sorted(ana.messages()) == ["still there?", "yes"]
    assert ana.run("return window.stillMe")


def test_missed_messages_are_shown_once_and_in_order(site, window, line):
    ana = window().sign_in(site.url, "ana")
    wire = line(site)
    bob = window().sign_in(wire.url, "bob")
    ana.say("m0")
    bob.wait_for("m0")
    worker = wire.worker()
    wire.cut()
    site.kill_pid(worker)
    site.wait_respawned(worker)
    until(lambda: bob.state() != "online", "bob's page notices")
    texts = [f"m{i}" for i in range(1, 120)]
    for text in texts[:5]:
        ana.say(text)
    ana.say_at_once(texts[5:])
    ana.wait_for("m0", *texts)
    bob.say("from the tunnel")
    wire.mend()
    for page in (ana, bob):
        page.wait_for("m0", *texts, "from the tunnel")


def test_nothing_is_complained_about_in_the_console(ana_and_bob):
    ana, bob = ana_and_bob
    ana.say("hello")
    bob.wait_for("hello")
    for page in ana_and_bob:
        complaints = [entry["message"] for entry in page.driver.get_log("browser")
                      if entry["level"] == "SEVERE" and "favicon.ico" not in entry["message"]]
        assert complaints == []
