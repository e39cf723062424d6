// What an iPXE script would fetch: the URLs of its kernel and initrd lines. Pure, and no interpreter: a script with logic of its own is read line by line.
import { shown } from './answers.ts';

export interface ScriptFile {
  readonly command: string;
  /** Absolute, or undefined with the reason. */
  readonly url?: string;
  readonly why?: string;
}

const FETCHING = new Set(['kernel', 'initrd', 'imgfetch', 'module']);
/** Options of these commands that take a word of their own. */
const WITH_VALUE = new Set(['--name', '-n', '--timeout', '-t']);
/** A script of ours names three; one of a thousand lines shall not make us ask a thousand times. */
export const MOST_FILES = 8;

export function isScript(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.subarray(0, 6)).toString('latin1') === '#!ipxe';
}

/** The first lines, cleaned. */
export function firstLines(script: string, most = 12): string[] {
  return script.split('\n').slice(0, most).map((line) => shown(line.replace(/\r$/, ''), 200)).filter((line, index, all) => line !== '' || index < all.length - 1);
}

/** Why a script of rackseed boots nothing: its refusals are scripts too, since an iPXE shows nothing else (src/boot/ipxe.ts). Booting from disk is none. */
export function refusalIn(script: string): string | undefined {
  const match = /^#!ipxe\n(?::again\n)?echo rackseed: (RS-(?:HOLD|SILENT|LOADER): .*)$/m.exec(script.slice(0, 2_000));
  return match ? `the script says: ${shown(match[1]!)}` : undefined;
}

/** Files of kernel and initrd lines in their order; `chain` is left out, it leads to another script. `base` is the script's own URL, for relative names. */
export function filesOf(script: string, base: string | undefined): ScriptFile[] {
  const files: ScriptFile[] = [];
  for (const line of script.split('\n')) {
    for (const part of line.split(/\|\||&&/)) {
      const words = part.trim().split(/\s+/);
      const command = words[0] ?? '';
      if (!FETCHING.has(command)) continue;
      const name = operandOf(words.slice(1));
      if (name === undefined || files.length >= MOST_FILES) continue;
      files.push({ command, ...resolve(name, base) });
    }
  }
  return files;
}

function operandOf(words: readonly string[]): string | undefined {
  for (let i = 0; i < words.length; i++) {
    if (WITH_VALUE.has(words[i]!)) i++;
    else if (!words[i]!.startsWith('-')) return words[i] || undefined;
  }
  return undefined;
}

function resolve(name: string, base: string | undefined): { url: string } | { why: string } {
  if (name.includes('${')) return { why: `${shown(name, 120)}: only the machine knows its variables` };
  try {
    const { href, protocol } = new URL(name, base);
    return protocol === 'http:' ? { url: href } : { why: `${shown(name, 120)}: not an http URL` };
  } catch {
    return { why: `${shown(name, 120)}: relative, and the script has no URL` };
  }
}
