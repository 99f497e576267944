"""The page at `/` in the distribution's headless Chromium, and the paths that it asks."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait
from tests.serving.bundles import new_bundle
from tests.serving.running import serving

from isthmus.data.dataset import Dataset
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import open_service

BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
PHONE, DESK = (375, 780), (1280, 900)
PATIENCE_S = 20
# The first search stays without an answer until `failFirst` is called, and has failed then.
HOLD_FIRST_SEARCH = """
const real = window.fetch;
window.fetch = (path, options) => window.failFirst || !path.startsWith("v1/items")
  ? real(path, options)
  : new Promise((_, reject) => { window.failFirst = () => reject(new TypeError("lost")); });
"""
PICTURES = "ISTHMUS_PICTURES"  # a folder that screenshots are left in, for people to look at


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "bundle"
    new_bundle(folder, tiny_dataset, labelled, domains=("shop", "video"))
    return folder


@pytest.fixture(scope="module")
def client(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with serving(bundle, tmp_path_factory.mktemp("page-log") / "log") as (opened, _):
        yield opened


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    if not (Path(BROWSER).exists() and Path(DRIVER).exists()):
        pytest.skip("no Chromium here (Debian: chromium and chromium-driver; 'make test' installs them where it can)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        opened.set_window_size(*DESK)
        yield opened
    finally:
        opened.quit()
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def one(browser: webdriver.Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def wait(browser: webdriver.Chrome, holds: Callable[[], object]) -> None:
    WebDriverWait(browser, PATIENCE_S).until(lambda _: holds())


def open_page(browser: webdriver.Chrome, client: httpx2.Client) -> None:
    browser.get(str(client.base_url))
    wait(browser, lambda: "are shown" in one(browser, "#said").text)


def ask(browser: webdriver.Chrome) -> None:
    before = browser.find_elements(By.CSS_SELECTOR, ".domain")
    one(browser, "#go").click()
    wait(browser, lambda: one(browser, "#go").is_enabled())
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".domain") != before)


def picture(browser: webdriver.Chrome, name: str) -> None:
    if folder := os.environ.get(PICTURES):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def overflow(browser: webdriver.Chrome) -> int:
    """By how many pixels the page is wider than the window."""
    found = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert isinstance(found, int)
    return found


def choose_user(browser: webdriver.Chrome, user: str) -> None:
    one(browser, "#user").clear()
    one(browser, "#user").send_keys(user)


def test_a_user_gets_both_lists_of_each_chosen_domain(
    browser: webdriver.Chrome, client: httpx2.Client, bundle: Path
) -> None:
    open_page(browser, client)
    assert texts(browser, ".domain h2") == ["shop", "video"]  # of the user that stands there
    choose_user(browser, "u3")
    ask(browser)
    assert texts(browser, ".domain h2") == ["shop", "video"]
    assert texts(browser, ".domain:first-child h3") == ["Retrieved", "Ranked"]
    service = open_service(bundle)
    expected = service.recommend(RecommendRequest("shop", user="u3", k=service.num_candidates))
    ranked = texts(browser, ".domain:first-child section:nth-child(2) .name")
    assert ranked == [item.title for item in expected.items[:10]]
    retrieved = sorted(expected.items, key=lambda item: item.retrieval_rank or 0)
    assert texts(browser, ".domain:first-child section:first-child .name") == [item.title for item in retrieved[:10]]
    picture(browser, "user")
    one(browser, ".why summary").click()
    assert any("user field" in title for title in texts(browser, ".domain:first-child .why h4"))
    browser.execute_script("document.querySelector('.why').scrollIntoView()")
    picture(browser, "why")
    logged = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [line for line in logged if line["level"] == "SEVERE"] == []


def test_a_history_is_put_together_by_searching(browser: webdriver.Chrome, client: httpx2.Client) -> None:
    open_page(browser, client)
    one(browser, "input[value=history]").click()
    Select(one(browser, "#history-domain")).select_by_value("video")
    one(browser, "#search").send_keys("item 1")
    wait(browser, lambda: texts(browser, "#found button"))
    first, second = texts(browser, "#found button")[:2]
    for place in (0, 1):
        browser.find_elements(By.CSS_SELECTOR, "#found button")[place].click()
    assert len(texts(browser, "#taken li")) == 2
    browser.find_elements(By.CSS_SELECTOR, "#taken button")[0].click()
    assert [text.split(" in ")[0] in second for text in texts(browser, "#taken li")] == [True]
    assert first != second
    ask(browser)
    assert "by the history above" in texts(browser, ".domain > p")[1]
    one(browser, "#search").clear()
    one(browser, "#search").send_keys("no such thing")
    wait(browser, lambda: "nothing found" in one(browser, "#search-said").text)


def test_an_overtaken_search_that_fails_late_says_nothing(browser: webdriver.Chrome, client: httpx2.Client) -> None:
    open_page(browser, client)
    browser.execute_script(HOLD_FIRST_SEARCH)
    one(browser, "input[value=history]").click()
    one(browser, "#search").send_keys("item")
    wait(browser, lambda: browser.execute_script("return Boolean(window.failFirst)"))
    one(browser, "#search").send_keys(" 1")
    wait(browser, lambda: "found" in one(browser, "#search-said").text)
    browser.execute_async_script("window.failFirst(); setTimeout(arguments[0], 50)")
    assert "Sorry" not in one(browser, "#search-said").text
    assert texts(browser, "#found button")


def test_what_is_wrong_is_said_in_words(browser: webdriver.Chrome, client: httpx2.Client) -> None:
    open_page(browser, client)
    choose_user(browser, " ")
    one(browser, "#go").click()
    wait(browser, lambda: "give a user" in one(browser, "#said").text)
    choose_user(browser, "nobody")
    for box in browser.find_elements(By.CSS_SELECTOR, "input[name=domain]:checked"):
        box.click()
    one(browser, "#go").click()
    wait(browser, lambda: "choose a domain" in one(browser, "#said").text)
    browser.find_elements(By.CSS_SELECTOR, "input[name=domain]")[2].click()
    ask(browser)
    assert texts(browser, ".domain h3") == ["Popular"]


def test_it_fits_a_phone_and_needs_no_mouse(browser: webdriver.Chrome, client: httpx2.Client) -> None:
    browser.set_window_size(*PHONE)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True},
    )
    open_page(browser, client)
    one(browser, "#user").send_keys(Keys.CONTROL, "a")
    before = browser.find_elements(By.CSS_SELECTOR, ".domain")
    one(browser, "#user").send_keys("u3", Keys.ENTER)
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".domain") != before)
    assert overflow(browser) <= 0
    picture(browser, "phone")
    browser.execute_script("document.querySelector('.domain').scrollIntoView()")
    picture(browser, "phone-lists")
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input, select, button')]"
        ".filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map((e) => e.id)"
    )
    assert unnamed == []


def test_a_server_with_a_token_asks_for_it(browser: webdriver.Chrome, bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path / "log", token="secret") as (client, _):
        browser.get(str(client.base_url))
        wait(browser, lambda: one(browser, "#token").is_displayed())
        one(browser, "#token").send_keys("secret")
        one(browser, "#use-token").click()
        wait(browser, lambda: texts(browser, "#domains label"))
        assert not one(browser, "#token").is_displayed()


def test_the_page_names_nothing_from_elsewhere(client: httpx2.Client) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in ("page/style.css", "page/page.js"):
        assert name in answer.text
        part = client.get(f"/{name}")
        assert part.status_code == 200
        assert "://" not in part.text
    assert "://" not in answer.text


def test_items_and_users_are_found_by_what_they_are_called(client: httpx2.Client) -> None:
    found = client.get("/v1/items", params={"domain": "shop", "q": "ITEM 14 OF", "limit": 3}).json()
    assert found["items"] == [{"item": "i14", "title": "Item 14 of category 3"}]
    assert len(client.get("/v1/items", params={"domain": "shop", "q": "i", "limit": 4}).json()["items"]) == 4
    assert client.get("/v1/items", params={"domain": "shop", "q": ".*"}).json()["items"] == []
    assert client.get("/v1/items", params={"domain": "elsewhere", "q": "i"}).status_code == 400
    assert client.get("/v1/items", params={"domain": "shop", "q": ""}).status_code == 422
    users = client.get("/v1/users", params={"prefix": "u1", "limit": 5}).json()["users"]
    assert len(users) == 5
    assert all(user.startswith("u1") for user in users)
    assert client.get("/v1/users", params={"prefix": "zzz"}).json()["users"] == []
