// A lab machine's serial console: the end of its log for error messages, and the user's terminal joined to it.
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import type { ReadStream, WriteStream } from 'node:tty';
import { AppError } from '../errors.ts';

/** The byte that leaves the console, as telnet and `virsh console` have it: Ctrl-]. */
const LEAVE = 0x1d;
const ESCAPES = /\u001b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[A-Za-z=>])/g;

/** The last lines that a machine printed, without escape sequences; empty when there are none. */
export async function consoleTail(log: string, lines: number): Promise<string[]> {
  const text = await readFile(log, 'latin1').catch(() => '');
  return readableLines(text).slice(-lines);
}

/** What a terminal would have shown, one string a line that has text. */
export function readableLines(text: string): string[] {
  return text
    .replace(ESCAPES, '')
    .split(/[\r\n]+/)
    .map((line) => line.replace(/[^\x20-\x7e]/g, '').trimEnd())
    .filter((line) => line !== '');
}

/**
 * Joins the terminal to the console until Ctrl-] or until the machine is gone. One at a time: QEMU's socket serves one.
 * LAB_UNAVAILABLE when there is no such machine.
 */
export function attachConsole(socket: string, input: ReadStream, output: WriteStream): Promise<void> {
  return new Promise((resolve, reject) => {
    const line = connect(socket);
    const leave = () => {
      input.setRawMode?.(false);
      input.pause();
      line.destroy();
      resolve();
    };
    line.once('error', (error) => reject(new AppError('LAB_UNAVAILABLE', `the console does not answer: ${error.message}`, 'is the lab still running?')));
    line.once('connect', () => {
      input.setRawMode?.(true);
      input.on('data', (bytes: Buffer) => {
        const end = bytes.indexOf(LEAVE);
        if (end < 0) line.write(bytes);
        else leave();
      });
      input.once('end', leave);
      // A getty prints its prompt again, so that the user sees where they are.
      line.write('\r');
    });
    line.on('data', (bytes: Buffer) => output.write(bytes));
    line.once('close', leave);
  });
}
