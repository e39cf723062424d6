// A root shell on a VM's second serial line: systemd's own debug shell, so that the image under test needs no login for tests.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { until } from '../lab-process.ts';

/** What the profile's command line needs for it. */
export const SHELL_CMDLINE = ['systemd.debug_shell=1', 'systemd.default_debug_tty=ttyS1'];

/** What QEMU needs for it. */
export function shellArgs(socket: string): string[] {
  return ['-chardev', `socket,id=shell,path=${socket},server=on,wait=off`, '-serial', 'chardev:shell'];
}

export interface Shell {
  /** Runs a line and answers what it printed. Throws when it exits with anything but 0. */
  run(line: string, timeoutMs?: number): Promise<string>;
  close(): void;
}

export async function openShell(path: string): Promise<Shell> {
  const socket: Socket = connect(path);
  await once(socket, 'connect');
  let heard = '';
  socket.on('data', (chunk: Buffer) => (heard += chunk.toString()));
  let n = 0;
  const shell: Shell = {
    async run(line, timeoutMs = 60_000) {
      const mark = `mark${++n}`;
      heard = '';
      // The mark is written in two parts, so that the terminal's echo of this line is not taken for its end.
      socket.write(`${line}; printf '\\n%s%s %s\\n' ${mark.slice(0, 4)} ${mark.slice(4)} $?\n`);
      const [, printed, code] = await until(`the end of: ${line}`, timeoutMs, () => new RegExp(`^([\\s\\S]*)\\n${mark} (\\d+)\\r?\\n`).exec(heard.replaceAll('\r', '')) ?? undefined);
      if (code !== '0') throw new Error(`${line}: exit ${code}\n${printed}`);
      // bash turns bracketed paste on and off around its lines, in whichever order they come here.
      return printed!.replaceAll(/\x1b\[\?2004[hl]/g, '');
    },
    close: () => void socket.destroy(),
  };
  // No echo, no prompt: what comes back is what the programs print.
  await until('a shell', 120_000, () => {
    if (heard.includes('shell-is-here')) return true;
    socket.write('\nstty -echo; PS1=; echo shell-is-"here"\n');
    return undefined;
  });
  await shell.run('true');
  return shell;
}
