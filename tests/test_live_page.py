"""The live page in a real browser, with the shipped model and a fake camera."""

import re
from functools import partial

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from live_browser import SIDE, Server, Tab, launch, missing, psnr, shrunk
from PIL import Image

from mirage_jax.data import styles
from mirage_jax.live.protocol import (
    Blend,
    FreePicture,
    Prompt,
    Reset,
    State,
    Statistics,
    Steps,
    Strength,
    Style,
    StyledPicture,
)
from mirage_jax.live.settings import webrtc_installed

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
FORMULAS = {name: jax.jit(getattr(styles, name)) for name in ("thermal", "sepia")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("recordings"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def context(server, tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = launch(playwright, tmp_path_factory.mktemp("browser"))
        yield context
        context.close()


@pytest.fixture(scope="module")
def live(server, context):
    tab = Tab(context, server.url)
    tab.page.click("#start")
    tab.shown("Live")
    return tab


@pytest.fixture
def tab(live):
    """The running page; whatever a test does with it, it complains of nothing."""
    yield live
    assert not live.complaints


def closest(source, styled):
    """Decibels to the picture of each formula, and to the source itself."""
    found = {"source": psnr(source, styled)}
    for name, formula in FORMULAS.items():
        image = formula(jnp.asarray(source, jnp.float32)[None] / 255)
        wanted = np.asarray(255 * jnp.clip(image[0], 0, 1)).astype(np.uint8)
        found[name] = psnr(wanted, styled)
    return sorted(found, key=found.__getitem__)[-1], found


def halves(tab):
    """Source and result of one moment, from the screen in the view of both."""
    screen = tab.canvas()
    assert screen.shape == (SIDE, 2 * SIDE, 3)
    return screen[:, :SIDE], screen[:, SIDE:]


def test_pictures_on_the_screen_are_those_of_the_style(tab):
    tab.page.keyboard.press("2")
    for name in ("thermal", "sepia"):
        before = len(tab.messages)
        tab.page.click(f"button:text-is('{name.capitalize()}')")
        tab.until(partial(tab.heard, Style, before, name=name))
        tab.next_pictures(12)
        best, found = closest(*halves(tab))
        assert best == name, found
        assert found[name] > found["source"] + 3, found


def test_the_screen_shows_what_the_server_sent(tab):
    tab.page.keyboard.press("1")
    before = len(tab.messages)
    tab.next_pictures(1)
    screen = tab.canvas()
    assert screen.shape == (SIDE, SIDE, 3)
    sent = tab.pictures(2, before)
    assert max(psnr(screen, one) for one in sent) > 30


def test_a_typed_prompt_changes_the_picture_within_ten_frames(tab):
    tab.page.keyboard.press("2")
    tab.page.click("button:text-is('Thermal')")
    tab.next_pictures(12)
    before = len(tab.messages)
    tab.page.keyboard.press("/")
    tab.page.keyboard.press("Control+A")
    tab.page.keyboard.type("an old photograph in sepia")
    tab.page.keyboard.press("Enter")
    assert tab.page.input_value("#prompt") == "an old photograph in sepia"
    tab.page.keyboard.press("Escape")
    prompt = tab.until(lambda: tab.heard(Prompt, before))[-1]
    assert prompt.text == "an old photograph in sepia"
    place = tab.messages.index(prompt)
    tenth = tab.pictures(10, place)[-1]
    best, found = closest(halves(tab)[0], tenth)
    assert best == "sepia", found


def test_a_slider_goes_from_one_prompt_to_the_other(tab):
    tab.page.keyboard.press("2")
    tab.page.click("button:text-is('Thermal')")
    tab.page.click("text=Blend with another")
    tab.page.fill("#other", "an old photograph in sepia")
    for amount, name in (("0", "thermal"), ("100", "sepia")):
        before = len(tab.messages)
        tab.page.locator("#amount").fill(amount)
        tab.until(partial(tab.heard, Blend, before, amount=int(amount) / 100))
        tab.next_pictures(12)
        best, found = closest(*halves(tab))
        assert best == name, found
    tab.page.fill("#other", "")
    tab.page.click("text=Blend with another")


def test_strength_is_told_as_its_slider_moves_and_again_with_any_prompt(tab):
    slider, before = tab.page.locator("#strength"), len(tab.messages)
    slider.focus()
    for key, amount in (("Home", 0.0), ("ArrowRight", 0.01), ("End", 1.0)):
        tab.page.keyboard.press(key)
        tab.until(partial(tab.heard, Strength, before, amount=amount))
        assert tab.page.inner_text("#strength-shown") == f"{100 * amount:g} %"
    tab.next_pictures(2)
    assert slider.get_attribute("aria-label") is None  # it has a label that is seen
    assert tab.page.get_by_label("Strength").input_value() == "100"


def test_steps_are_chosen_by_keys_and_what_is_used_is_said(tab):
    def pressed():
        return tab.page.locator("#steps [aria-pressed=true]").inner_text()

    assert tab.page.locator("#steps button").all_inner_texts() == ["1", "2", "4"]
    assert pressed() == "1"
    for count in (2, 1):
        before = len(tab.messages)
        tab.page.get_by_role("button", name=re.compile(f"^{count} steps?$")).focus()
        tab.page.keyboard.press("Enter")
        tab.until(partial(tab.heard, Steps, before, count=count))
        assert pressed() == str(count)
        tab.next_pictures(2)  # they go on while a program is compiled
        tab.until(partial(tab.heard, Statistics, before, steps=count))
        tab.page.locator("#steps-used:empty").wait_for(state="attached")


def test_controls_fit_a_narrow_window_in_both_themes(tab):
    size = tab.page.viewport_size
    tab.page.set_viewport_size({"width": 360, "height": 740})
    for scheme in ("dark", "light"):
        tab.page.emulate_media(color_scheme=scheme)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
        for part in ("#picker", "#strength", "#strength-shown", "#steps"):
            box = tab.page.locator(part).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360
            assert box["height"] > 10
    tab.page.emulate_media(color_scheme="no-preference")
    tab.page.set_viewport_size(size)


def test_styles_can_be_reached_while_all_is_open(tab):
    more = tab.page.locator("summary")
    for place in range(more.count()):
        more.nth(place).click()
    tab.page.check("#share")
    styles = tab.page.locator("#styles")
    assert styles.bounding_box()["height"] >= 150
    tab.page.click("button:text-is('Thermal')")
    tab.page.click("button:text-is('Sepia')")
    for part in ("#share", "#fps"):  # by scrolling, where the window is low
        tab.page.locator(part).scroll_into_view_if_needed()
        assert tab.page.locator(part).is_visible()
    tab.page.uncheck("#share")
    for place in range(more.count()):
        more.nth(place).click()


def test_keys_change_the_view(tab):
    for key, view in (("1", "full"), ("2", "split"), ("3", "wipe")):
        tab.page.keyboard.press(key)
        pressed = tab.page.locator("[data-view][aria-pressed=true]")
        assert pressed.get_attribute("data-view") == view
        assert tab.page.locator("#wipe").is_visible() == (view == "wipe")
        assert tab.page.locator("#tags").is_visible() == (view == "split")
    # In the wipe, the left half is the source's and the right half the result's.
    tab.page.click("button:text-is('Thermal')")
    tab.next_pictures(12)
    tab.page.locator("#wipe").fill("100")
    source = tab.canvas()
    tab.page.locator("#wipe").fill("0")
    styled = tab.canvas()
    best, found = closest(source, styled)
    assert best == "thermal", found
    # Whoever has moved the wipe can go on with the keys.
    tab.page.keyboard.press("1")
    assert not tab.page.locator("#wipe").is_visible()


def test_a_snapshot_is_a_picture_of_the_stage(tab, tmp_path):
    tab.page.keyboard.press("2")
    with tab.page.expect_download() as download:
        tab.page.keyboard.press("s")
    assert re.fullmatch(r"mirage-[\dT-]+\.png", download.value.suggested_filename)
    path = tmp_path / "snapshot.png"
    download.value.save_as(path)
    width, height = tab.page.evaluate("[canvas.width, canvas.height]")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (width, height) == (2 * height, height)
    assert shrunk(path.read_bytes()).std() > 20


def test_a_recording_is_a_video(tab, tmp_path):
    tab.page.keyboard.press("1")
    tab.page.keyboard.press("v")
    tab.next_pictures(10)
    with tab.page.expect_download() as download:
        tab.page.keyboard.press("v")
    path = tmp_path / download.value.suggested_filename
    assert path.suffix in (".webm", ".mp4")
    download.value.save_as(path)
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) >= 5
    height = tab.page.evaluate("canvas.height")
    assert {frame.shape for frame in frames} == {(height, height, 3)}
    assert frames[-1].std() > 20


def test_the_server_records_what_the_page_shows(tab, server):
    tab.page.click("#server-record")
    tab.next_pictures(10)
    tab.page.click("#server-record")
    tab.until(partial(tab.heard, State, detail="the recording ended"))
    [path] = server.recordings.iterdir()
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) >= 5
    assert {frame.shape for frame in frames} == {(SIDE, SIDE, 3)}
    assert frames[-1].std() > 20


def test_a_reset_is_taken_and_frames_go_on(tab):
    before = len(tab.messages)
    tab.page.keyboard.press("r")
    tab.until(lambda: tab.heard(Reset, before))
    tab.next_pictures(5)
    assert not tab.heard(State, before)


def test_the_bare_page_shows_the_stream_and_nothing_else(tab, context):
    tab.page.click("text=Watch elsewhere")
    tab.page.check("#share")
    address = tab.page.input_value("#view-address")
    tab.page.click("button:text-is('Thermal')")
    tab.next_pictures(12)
    page = context.new_page()
    page.set_viewport_size({"width": 4 * SIDE, "height": 4 * SIDE})
    page.goto(address)
    page.locator("#picture").wait_for()
    before = len(tab.messages)
    tab.next_pictures(2)
    shown = shrunk(page.screenshot())
    assert shown.shape == (SIDE, SIDE, 3)
    assert max(psnr(shown, one) for one in tab.pictures(2, before)) > 18
    assert page.evaluate("document.body.innerText") == ""
    # Whoever stops sharing is not seen any longer; who shares again is found again.
    tab.page.uncheck("#share")
    page.locator("#picture").wait_for(state="hidden")
    tab.page.check("#share")
    assert tab.page.input_value("#view-address") == address
    page.locator("#picture").wait_for()
    page.close()
    tab.page.uncheck("#share")
    tab.page.click("text=Watch elsewhere")


WITHOUT_A_WAY = (
    "RTCPeerConnection.prototype.setRemoteDescription = () => Promise.reject()"
)


@pytest.mark.skipif(not webrtc_installed(), reason="needs aiortc: pip install aiortc")
@pytest.mark.parametrize("way", [True, False])
def test_pictures_come_by_webrtc_and_without_a_way_by_websocket(server, context, way):
    page = context.new_page()
    if not way:
        page.add_init_script(WITHOUT_A_WAY)
    tab = Tab(context, f"{server.url}?transport=webrtc", page)
    page.click("#start")
    tab.shown("Live")
    page.keyboard.press("2")
    page.click("button:text-is('Thermal')")
    tab.until(lambda: tab.canvas().shape == (SIDE, 2 * SIDE, 3))
    tab.until(lambda: closest(*halves(tab))[0] == "thermal")
    video = page.evaluate("document.getElementById('remote').videoWidth")
    if way:
        assert (video, tab.messages) == (SIDE, [])
    else:
        assert video == 0
        assert tab.heard(StyledPicture)
    assert not tab.complaints
    page.close()


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
def test_a_lost_camera_is_said_until_it_is_back(server, context, transport):
    if transport == "webrtc" and not webrtc_installed():
        pytest.skip("needs aiortc: pip install aiortc")
    page = context.new_page()
    tab = Tab(context, f"{server.url}?transport={transport}", page)
    page.click("#start")
    tab.shown("Live")
    badge = page.locator("#badge")
    for _ in range(2):
        badge.wait_for(state="hidden")
        page.wait_for_timeout(1000)  # a stream that has just begun has no pace
        page.evaluate("document.getElementById('video').pause()")
        badge.wait_for()
        assert badge.inner_text() == "Camera lost: goes on by itself"
        one = tab.canvas()
        tab.until(lambda: (tab.canvas() != one).any())  # noqa: B023
        page.evaluate("document.getElementById('video').play()")
    badge.wait_for(state="hidden")
    assert bool(tab.heard(FreePicture)) is (transport == "websocket")
    assert not tab.complaints
    page.close()


def test_nothing_comes_from_elsewhere(tab, server, context):
    port = server.url.rpartition(":")[2]
    own = re.compile(rf"(blob:http|http|ws)://127\.0\.0\.1:{port}")
    assert len(tab.requests) > 5
    assert not [url for url in tab.requests if not own.match(url)]
    # And the policy forbids it.
    page = context.new_page()
    page.goto(server.url)
    said = []
    page.on("console", lambda message: said.append(message.text))
    caught = page.evaluate("fetch('http://localhost:9/').catch((e) => e.name)")
    assert caught == "TypeError"
    tab.until(lambda: [text for text in said if "Content Security Policy" in text])
    page.close()


def test_a_stopped_server_is_found_again(live, server):
    """Last: it leaves the complaints of connections that came to nothing."""
    live.page.locator("#strength").fill("40")
    live.page.click("#steps button:text-is('2')")
    live.until(partial(live.heard, Steps, count=2))
    live.until(partial(live.heard, Strength, amount=0.4))
    before = len(live.messages)
    status, said = server.stop()
    assert status == 0, said
    assert "Traceback" not in said
    live.until(partial(live.heard, State, before, state="ended", retry=True))
    live.page.locator("#notice", has_text="trying again in").wait_for()
    live.page.keyboard.press("2")
    live.page.locator("#badge", has_text="Not restyled").wait_for()
    live.page.locator("#tags").wait_for(state="hidden")
    server.restart()
    live.shown("Live")
    live.next_pictures(3)
    live.page.locator("#tags").wait_for()
    # The new server hears what the old one knew.
    live.until(partial(live.heard, Strength, before, amount=0.4))
    live.until(partial(live.heard, Statistics, before, steps=2))
    # A crash says nothing: the page notices by itself.
    server.kill()
    live.page.locator("#notice", has_text="trying again in").wait_for()
    server.restart()
    live.shown("Live")
    live.next_pictures(3)
    # Refused by a machine, or cut off while a server starts or ends.
    failed = re.compile(r"WebSocket connection to 'ws://\S+/ws' failed: ")
    assert not [text for text in live.complaints if not failed.match(text)]
