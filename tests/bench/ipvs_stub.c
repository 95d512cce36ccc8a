/*
 * Lets keepalived run on a kernel without IPVS, so that its checks can be measured: everything it tells the kernel's
 * balancer succeeds and does nothing. Preloaded into keepalived by compare.py, and into nothing else.
 *
 *     cc -O2 -shared -fPIC -o ipvs_stub.so ipvs_stub.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

/* the options of ip_vs(4): IP_VS_BASE_CTL and the 32 above it, <linux/ip_vs.h> */
static int for_ipvs(int level, int name)
{
	return level == IPPROTO_IP && name >= 1152 && name < 1152 + 32;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	static int (*real)(int, int, int, void *, socklen_t *);

	if (for_ipvs(level, name)) {
		memset(value, 0, *length);
		return 0;
	}
	if (!real)
		real = dlsym(RTLD_NEXT, "getsockopt");
	return real(fd, level, name, value, length);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	static int (*real)(int, int, int, const void *, socklen_t);

	if (for_ipvs(level, name))
		return 0;
	if (!real)
		real = dlsym(RTLD_NEXT, "setsockopt");
	return real(fd, level, name, value, length);
}
