"""What every html page of a report must be."""

import html.parser
import re


def check_alone_and_well_formed(text):
  """It refers to nothing outside, runs no script, and its tags close in order."""
  assert not re.findall(r'(?:src|href)="(?!data:)', text)
  assert not re.findall(r'<script|@import|url\(', text)
  stack: list[str] = []

  class Parser(html.parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      if tag not in ('meta', 'img'):
        stack.append(tag)

    def handle_endtag(self, tag):
      assert stack.pop() == tag

  Parser().feed(text.replace('<!doctype html>', ''))
  assert stack == []
