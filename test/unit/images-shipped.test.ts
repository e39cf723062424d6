// The shipped images as far as nothing is built: what each of them says, and Alpine's unit of the node agent, by busybox ash.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { imageNames, readImageSpec } from '../../src/images/spec.ts';
import { SHIPPED } from '../../src/shipped.ts';

describe('the shipped images', () => {
  it('are these, and each is without a fault', () => {
    expect(imageNames(SHIPPED.images)).toEqual(['alpine-k0s', 'debian-k0s', 'debian-metal', 'debian-rescue']);
    for (const name of imageNames(SHIPPED.images)) expect(() => readImageSpec(SHIPPED.images, name), name).not.toThrow();
  });

  it('for real hardware: what the cloud one has, and drivers with their firmware, from where Debian keeps it', () => {
    const [cloud, metal] = [readImageSpec(SHIPPED.images, 'debian-k0s'), readImageSpec(SHIPPED.images, 'debian-metal')];
    expect(metal.kernel.package).toBe('linux-image-amd64');
    expect(metal.packages).toEqual(expect.arrayContaining([...cloud.packages]));
    expect(metal.kernel.optionalModules).toEqual(expect.arrayContaining([...cloud.kernel.optionalModules, 'mlx5_core', 'bnx2x', 'nvme', 'megaraid_sas', 'mpt3sas']));
    expect(metal.base).toMatchObject({ components: ['main', 'non-free-firmware'] });
    expect(metal.kernel.firmware.length).toBeGreaterThan(5);
    expect(metal.services.enable).toEqual(cloud.services.enable);
  });

  it('for looking at machines: the same with sshd, and nothing of its disks is touched by itself', () => {
    const rescue = readImageSpec(SHIPPED.images, 'debian-rescue');
    expect(rescue.kernel.package).toBe('linux-image-amd64');
    expect(rescue.services.enable).toContain('ssh.service');
    expect(rescue.files).toEqual(expect.arrayContaining(['64-md-raid-assembly', '69-lvm'].map((rule) => expect.objectContaining({ path: `/etc/udev/rules.d/${rule}.rules`, symlink: '/dev/null' }) as unknown)));
  });
});

describe("OpenRC's unit of the node agent", () => {
  const unit = join(SHIPPED.images, 'alpine-k0s/files/rackseed-agent.initd');
  /** Runs start() as openrc-run does, with another program as the agent. */
  const start = (agent: string) => {
    const dir = mkdtempSync(join(tmpdir(), 'rackseed-openrc-'));
    try {
      writeFileSync(join(dir, 'agent'), `#!/bin/sh\n${agent}\n`, { mode: 0o755 });
      const text = readFileSync(unit, 'utf8').replace('/usr/lib/rackseed/agent', join(dir, 'agent')).replace('/dev/console', join(dir, 'console'));
      const { status, stderr } = spawnSync('busybox', ['ash', '-c', `ebegin() { :; }; eend() { return "$1"; }; ${text}\nstart`], { encoding: 'utf8', env: { PATH: process.env['PATH'] } });
      return { status, stderr, console: readFileSync(join(dir, 'console'), 'utf8') };
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  };
  it('is started when the agent says that the node is ready, with its words on the console and root\'s home', () => expect(start('echo "ready in $HOME"')).toEqual({ status: 0, stderr: '', console: 'ready in /root\n' }));
  it('is not when the boot has failed, so that what needs it does not start', () => expect(start('echo why >&2; exit 1')).toEqual({ status: 1, stderr: '', console: 'why\n' }));
});
