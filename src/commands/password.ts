// The password of a key: from the file that RACKSEED_KEY_PASSWORD_FILE names, else typed at the terminal, which does not show it.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { AppError, lineOf } from '../errors.ts';

/** undefined where there is neither file nor terminal. KEY_INVALID when the file cannot be read. */
export async function keyPassword(key: string): Promise<string | undefined> {
  const file = process.env['RACKSEED_KEY_PASSWORD_FILE'];
  if (file !== undefined) {
    try {
      return readFileSync(file, 'utf8').replace(/\r?\n$/, '');
    } catch (error) {
      throw new AppError('KEY_INVALID', `RACKSEED_KEY_PASSWORD_FILE: ${lineOf(error)}`, 'name a file that has the password and nothing else', error);
    }
  }
  return process.stdin.isTTY && process.stderr.isTTY ? typed(`password of ${key}: `) : undefined;
}

/** readline echoes to its output, which here is nowhere. */
function typed(question: string): Promise<string | undefined> {
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  process.stderr.write(question);
  return new Promise((resolve) => {
    let said: string | undefined;
    terminal.once('line', (line) => {
      said = line;
      terminal.close();
    });
    // Ctrl-C and Ctrl-D close it without a line.
    terminal.once('close', () => {
      process.stderr.write('\n');
      resolve(said);
    });
  });
}
