// Notices a card that was deleted and made anew under its old name: a socket of the old one hears nothing more.
import { readFileSync } from 'node:fs';

export interface CardEvents {
  /** There is no card of this name any more. */
  gone(name: string): void;
  /** There is another card of this name than before. */
  replaced(name: string): void;
}

const POLL_MS = 2_000;

/** Looks every 2 s, which keeps no process alive; the answer ends it. A card that goes down, or changes its addresses, stays the same. */
export function watchCards(names: readonly string[], events: CardEvents): () => void {
  const before = new Map<string, Seen>(names.map((name) => [name, look(name, readNet('dev'), readNet('igmp'))]));
  const poll = (): void => {
    const [dev, igmp] = [readNet('dev'), readNet('igmp')];
    // Not to be read just now says nothing about cards.
    if (dev === '') return;
    for (const [name, was] of before) {
      const is = look(name, dev, igmp);
      const same = was.there && is.there && (was.index === undefined || is.index === undefined || was.index === is.index);
      // The number of a card that is down is not shown; it stays the one that it was.
      before.set(name, same ? { there: true, index: is.index ?? was.index } : is);
      if (same) continue;
      if (is.there) events.replaced(name);
      else if (was.there) events.gone(name);
    }
  };
  const timer = setInterval(poll, POLL_MS).unref();
  return () => clearInterval(timer);
}

interface Seen {
  readonly there: boolean;
  /** The kernel's number, of a card that is up: no two cards have the same, one after the other either. */
  readonly index: number | undefined;
}

function look(name: string, dev: string, igmp: string): Seen {
  const lines = (text: string) => text.split('\n').map((line) => line.trim());
  const there = lines(dev).some((line) => line.startsWith(`${name}:`));
  // `2	eth0      :     1      V3`: every card that is up is in 224.0.0.1.
  const line = lines(igmp).find((one) => /^\d+\s/.test(one) && one.split(/\s+/)[1]?.replace(/:$/, '') === name);
  return { there, index: line === undefined ? undefined : Number(line.split(/\s/)[0]) };
}

/** From /proc, because /sys can show another namespace. */
function readNet(file: 'dev' | 'igmp'): string {
  try {
    return readFileSync(`/proc/self/net/${file}`, 'utf8');
  } catch {
    return '';
  }
}
