"""The page in Gradio's components: what stands where, and what is called when."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from inference.images import BadImage, File
from inference.refusals import Refusal
from inference.service import Settings
from inference.ui import batch, picture, workshop
from inference.ui.replica import Replica
from inference.ui.shelf import Shelf
from inference.ui.words import COOKIE, OURS, Language, said, spoken, translations
from inference.ui.workshop import Task

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas")
EVENTS = 64  # that may wait; the next one is told that it is busy
SESSIONS = 64  # of which Gradio keeps what it showed last, pictures included; a page needs none of it
SHOWN_SECONDS = 1.0  # between two states of a batch

Uploaded = Mapping[str, Any] | None
"""A file as Gradio speaks of it, which nobody has opened yet: opening is for the replica, which has limits."""


def blocks(replica: Replica, settings: Settings, workers: int, shelf: Shelf) -> gr.Blocks:
    """The page over one replica. Mount it with `look()`."""
    desk = _Desk(replica, settings, workers, shelf)
    with gr.Blocks(title="halve", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(_header(), elem_classes="halve-header")
        with gr.Tabs():
            with gr.Tab(_text("one"), id="one"):
                _one(desk)
            with gr.Tab(_text("many"), id="many"):
                _many(desk)
            with gr.Tab(_text("export"), id="export"):
                _export(desk)
            with gr.Tab(_text("bench"), id="bench"):
                _bench(desk)
    page.state_session_capacity = SESSIONS
    page.queue(max_size=EVENTS, api_open=False)
    return page


def look() -> dict[str, Any]:
    """How it is mounted: no font, script or link from elsewhere, nothing recorded."""
    return {
        "theme": _theme(),
        "i18n": gr.I18n(**translations()),
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
    }


class _Desk:
    """What the page's calls have in common."""

    def __init__(self, replica: Replica, settings: Settings, workers: int, shelf: Shelf) -> None:
        self.replica = replica
        self.settings = settings
        self.workers = workers
        self.shelf = shelf

    async def read(
        self, image: Uploaded, fields: str, prompt: str, request: gr.Request
    ) -> tuple[str, dict[str, Any] | None]:
        """HTML, and what /v1/ocr answered."""
        language = _language(request)
        if image is None:
            return picture.note(said(language, "no_image")), None
        try:
            file = await self.shelf.taken(image, self.settings.max_bytes)
            page = await self.replica.read(file, fields=fields, prompt=prompt)
            jpeg = await asyncio.to_thread(picture.shown, file.content, **self._limits())
        except Refusal as refusal:
            return picture.refused(refusal, language), None
        except BadImage as bad:
            return picture.refused(Refusal(bad.status, bad.reason), language), None
        return picture.html(page, jpeg, language), page

    async def read_all(
        self, uploads: Sequence[Mapping[str, Any]] | None, fields: str, prompt: str, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Progress, table, gallery, the archive and the lines, again and again."""
        language = _language(request)
        absent = gr.update(value=None, interactive=False)
        if not uploads or len(uploads) > batch.MOST_FILES:
            key = "too_many" if uploads else "no_image"
            line = said(language, key, count=len(uploads or ()), most=batch.MOST_FILES)
            yield picture.note(line), "", [], absent, absent
            return
        started, shown_at, items = time.monotonic(), 0.0, list[batch.Item]()
        yield _progress(0, len(uploads), 0.0, language), "", [], absent, absent
        async with aclosing(self._items(uploads, fields, prompt)) as reading:  # when it is stopped, nothing goes on
            async for item in reading:
                items.append(item)
                if time.monotonic() - shown_at > SHOWN_SECONDS and len(items) < len(uploads):
                    shown_at = time.monotonic()
                    progress = _progress(len(items), len(uploads), shown_at - started, language)
                    yield progress, _outcomes(items, language), _pictures(items), gr.skip(), gr.skip()
        lines, archive = self.shelf.place("results.jsonl"), self.shelf.place("results.zip")
        await asyncio.to_thread(batch.written, items, lines, archive)
        yield (
            _summary(items, time.monotonic() - started, language),
            _outcomes(items, language),
            _pictures(items),
            gr.update(value=str(archive), interactive=True),
            gr.update(value=str(lines), interactive=True),
        )

    async def export(self, precision: str, side: int, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """HTML, and the file."""
        language = _language(request)
        name = f"{self.settings.model}-detector-{precision}.onnx"
        output = await asyncio.to_thread(self.shelf.place, name)
        task = Task(
            kind="export",
            model=self.settings.model,
            precision="fp16" if precision == "fp16" else "fp32",
            output=str(output),
            side=side if side in workshop.SIDES else workshop.SIDES[0],
        )
        absent = gr.update(value=None, interactive=False)
        yield picture.note(said(language, "working")), absent
        try:
            found = await self._worked(task, language)
        except Refusal as refusal:
            yield picture.refused(refusal, language), absent
            return
        yield _exported(found, task.side, language), gr.update(value=str(output), interactive=True)

    async def bench(self, request: gr.Request) -> AsyncIterator[str]:
        language = _language(request)
        yield picture.note(said(language, "working"))
        settings = self.settings
        task = Task(
            kind="bench",
            model=settings.model,
            accelerator=settings.accelerator,
            backend=settings.backend,
            precision=settings.precision,
            workers=self.workers,
            threads=settings.threads,
        )
        try:
            yield _measured(await self._worked(task, language), language)
        except Refusal as refusal:
            yield picture.refused(refusal, language)

    async def _items(
        self, uploads: Sequence[Mapping[str, Any]], fields: str, prompt: str
    ) -> AsyncGenerator[batch.Item, None]:
        folder = self.shelf.place("pictures")
        folder.mkdir()

        def draw(file: File, page: Mapping[str, Any]) -> Path:
            place = folder / f"{time.monotonic_ns()}.jpg"
            place.write_bytes(picture.small(file.content, page, **self._limits()))
            return place

        def load(upload: Mapping[str, Any]) -> batch.Load:
            return lambda: self.shelf.taken(upload, self.settings.max_bytes)

        files = [(str(upload.get("orig_name") or "image"), load(upload)) for upload in uploads]
        reading = batch.read(self.replica, files, draw, at_once=self.workers, fields=fields, prompt=prompt)
        async with aclosing(reading):
            async for item in reading:
                yield item

    async def _worked(self, task: Task, language: Language) -> dict[str, Any]:
        """Not while requests are read: it would take from them, and they from it."""
        if (await self.replica.health())["in_flight"]:
            raise Refusal(429, said(language, "busy"), 10)
        return await workshop.run(task)

    def _limits(self) -> dict[str, int]:
        return {"max_bytes": self.settings.max_bytes, "max_pixels": self.settings.max_pixels}


def _one(desk: _Desk) -> None:
    with gr.Row(elem_classes="halve-columns"):
        with gr.Column(scale=2, min_width=280):
            image = gr.Image(
                show_label=False,
                sources=["upload", "clipboard"],
                type="filepath",
                image_mode=None,
                height=260,
                buttons=[],
                elem_id="halve-image",
            )
            fields, prompt = _wishes()
            threshold = gr.Slider(
                0.5,
                1.0,
                0.5,
                step=0.01,
                label=_text("threshold"),
                info=_text("threshold_hint"),
                elem_id="halve-threshold",
            )
            button = gr.Button(_text("read"), variant="primary", elem_id="halve-read")
        with gr.Column(scale=5, min_width=320):
            found = gr.HTML(picture.waiting(), elem_id="halve-found", js_on_load=None)
            with gr.Accordion(_text("json"), open=False):
                as_json = gr.JSON(show_label=False, elem_id="halve-json")
    read = gr.on(
        [image.upload, button.click, fields.submit, prompt.submit],
        desk.read,
        [image, fields, prompt],
        [found, as_json],
        preprocess=False,
        concurrency_limit=desk.workers + 2,
        api_visibility="private",
    )
    show = "(least) => window.halve.show(least)"
    read.then(fn=None, inputs=threshold, js=show)
    threshold.change(fn=None, inputs=threshold, js=show)


def _many(desk: _Desk) -> None:
    with gr.Row(elem_classes="halve-columns"):
        with gr.Column(scale=2, min_width=280):
            files = gr.File(
                label=_text("files"), file_count="multiple", file_types=["image"], height=220, elem_id="halve-files"
            )
            fields, prompt = _wishes()
            with gr.Row():
                start = gr.Button(_text("start"), variant="primary", elem_id="halve-start")
                stop = gr.Button(_text("stop"), elem_id="halve-stop")
            gr.Markdown(_text("behind"), elem_classes="halve-small")
        with gr.Column(scale=5, min_width=320):
            progress = gr.HTML(elem_id="halve-progress", js_on_load=None)
            gallery = gr.Gallery(
                label=_text("gallery"),
                columns=4,
                object_fit="contain",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="halve-gallery",
            )
            outcomes = gr.HTML(elem_id="halve-outcomes", js_on_load=None)
            with gr.Row():
                archive = gr.DownloadButton(_text("archive"), interactive=False, elem_id="halve-zip")
                lines = gr.DownloadButton(_text("jsonl"), interactive=False, elem_id="halve-jsonl")
    reading = start.click(
        desk.read_all,
        [files, fields, prompt],
        [progress, outcomes, gallery, archive, lines],
        preprocess=False,
        show_progress="hidden",
        concurrency_limit=2,
        api_visibility="private",
    )
    stop.click(fn=None, cancels=[reading])


def _export(desk: _Desk) -> None:
    kind = workshop.exportable(desk.settings.model)
    gr.HTML(_both("export_lead", model=desk.settings.model) + _both(f"export_{kind}", model=desk.settings.model))
    if kind == "card":
        return
    if not workshop.able():
        gr.HTML(_both("export_needs"))
        return
    with gr.Row(elem_classes="halve-columns"):
        with gr.Column(scale=2, min_width=280):
            precision = gr.Radio(["fp32", "fp16"], value="fp32", label=_text("precision"))
            side = gr.Radio(list(workshop.SIDES), value=workshop.SIDES[0], label=_text("size"))
            button = gr.Button(_text("export_start"), variant="primary", elem_id="halve-export")
        with gr.Column(scale=5, min_width=320):
            found = gr.HTML(elem_id="halve-exported", js_on_load=None)
            file = gr.DownloadButton(_text("download"), interactive=False, elem_id="halve-onnx")
    button.click(
        desk.export,
        [precision, side],
        [found, file],
        preprocess=False,
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id="workshop",
        api_visibility="private",
    )


def _bench(desk: _Desk) -> None:
    gr.HTML(_both("bench_lead"))
    with gr.Row(elem_classes="halve-columns"):
        with gr.Column(scale=2, min_width=280):
            button = gr.Button(_text("bench_start"), variant="primary", elem_id="halve-bench")
        with gr.Column(scale=5, min_width=320):
            found = gr.HTML(elem_id="halve-measured", js_on_load=None)
    button.click(
        desk.bench,
        None,
        found,
        show_progress="hidden",
        concurrency_limit=1,
        concurrency_id="workshop",
        api_visibility="private",
    )


def _wishes() -> tuple[gr.Textbox, gr.Textbox]:
    return (
        gr.Textbox(label=_text("fields"), placeholder=_text("fields_hint"), max_length=2000),
        gr.Textbox(label=_text("prompt"), placeholder=_text("prompt_hint"), max_length=2000),
    )


def _header() -> str:
    return (
        f'<header class="halve-top"><h1>{_both("title", tag="span")}</h1>'
        '<nav aria-label="Language 语言"><button type="button" data-language="en" lang="en">English</button>'
        f'<button type="button" data-language="zh" lang="zh-CN">中文</button></nav><div>{_both("lead")}</div></header>'
    )


def _text(key: str) -> Any:
    """A text that Gradio shows in the page's language."""
    return gr.I18n()(f"{OURS}{key}")


def _both(key: str, *, tag: str = "p", **values: object) -> str:
    """A text in both languages, of which the page's language shows one: Gradio does not translate within HTML."""
    return picture.both(said("en", key, **values), said("zh", key, **values), tag)


def _language(request: gr.Request) -> Language:
    return spoken(request.cookies.get(COOKIE), request.headers.get("accept-language"))


def _progress(done: int, count: int, seconds: float, language: Language) -> str:
    words = said(language, "progress", done=done, all=count)
    if done:
        left = round((count - done) * seconds / done)
        words += " · " + said(language, "rate", rate=f"{done / seconds:.1f}", left=f"{left // 60}:{left % 60:02}")
    return picture.progress(words, done, count)


def _summary(items: Sequence[batch.Item], seconds: float, language: Language) -> str:
    read = sum(item.page is not None for item in items)
    words = said(language, "done", read=read, failed=len(items) - read, seconds=f"{seconds:.1f}")
    return picture.progress(words, len(items), len(items))


def _outcomes(items: Sequence[batch.Item], language: Language) -> str:
    heads = [said(language, key) for key in ("file", "lines", "milliseconds", "outcome")]
    rows = [
        (item.name, str(len(page["lines"])), f"{page['processing_time_ms']:.0f}", said(language, "ok"))
        if (page := item.page)
        else (item.name, picture.in_words(Refusal(item.status, item.reason), language))
        for item in sorted(items, key=lambda item: item.number)
    ]
    return picture.table(heads, rows)


def _pictures(items: Sequence[batch.Item]) -> list[tuple[str, str]]:
    return [
        (str(item.picture), item.name)
        for item in sorted(items, key=lambda item: item.number)
        if item.picture and item.picture.exists()
    ]


def _exported(found: Mapping[str, Any], side: int, language: Language) -> str:
    loss = found["loss"]
    speed = found["before_ms"] / found["after_ms"]
    return picture.facts(
        [
            (said(language, "precision"), found["precision"]),
            (said(language, "bytes"), f"{found['bytes'] / 2**20:.1f} MiB"),
            (said(language, "difference"), f"{loss['largest']:.2g}"),
            (said(language, "crossed"), f"{loss['crossed'] or 0:.4%}"),
            (said(language, "before"), f"{found['before_ms']:.0f} ms · {side} × {side} · 1 CPU"),
            (said(language, "after"), f"{found['after_ms']:.0f} ms"),
            (said(language, "speed"), f"{speed:.2f} ×"),
            ("SHA-256", found["sha256"]),
        ]
    )


def _measured(row: Mapping[str, Any], language: Language) -> str:
    return picture.facts(
        [
            (said(language, "gpu"), row["gpu"]),
            (said(language, "provider"), row["provider"]),
            (said(language, "precision"), row["precision"]),
            (said(language, "workers"), f"{row['workers']} × {row['threads']}"),
            (said(language, "images_per_second"), f"{row['images_per_second']:.2f}"),
            ("p95", f"{row['p95_ms']:.0f} ms"),
            (said(language, "memory"), f"{row['memory_bytes'] / 2**20:.0f} MiB"),
            (said(language, "load"), said(language, "load_of", load=f"{row['load']:.1f}", cores=row["cores"])),
            (said(language, "versions"), ", ".join(f"{name} {of}" for name, of in row["versions"].items())),
        ]
    )


def _theme() -> gr.themes.Base:
    """Indigo on slate, in the system's own fonts."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=[*FONTS, "sans-serif"],
        font_mono=[*FIXED_FONTS, "monospace"],
    ).set(  # dark enough to be read, and bright enough on dark: 4.5 to 1
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
    )
