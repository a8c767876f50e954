/*
 * A client with Mbed TLS, as ESP32, Zephyr and Arduino have it: it trusts a CA
 * (argv[3]; "" for none, which verifies nothing), connects to host argv[1] port
 * argv[2], and sends MQTT CONNECT. It prints the version and cipher suite when
 * CONNACK has come.
 */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(const char *what, int ret) {
	char text[128];
	if (ret >= 0)
		return;
	mbedtls_strerror(ret, text, sizeof text);
	fprintf(stderr, "%s: %s (-0x%x)\n", what, text, (unsigned)-ret);
	exit(1);
}

int main(int argc, char **argv) {
	static const unsigned char connect[] = {0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 2, 'm', 'b'};
	unsigned char answer[4];
	mbedtls_net_context net;
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context random;
	mbedtls_x509_crt ca;
	mbedtls_ssl_config conf;
	mbedtls_ssl_context ssl;
	size_t have = 0;
	int ret;

	if (argc != 4) {
		fprintf(stderr, "usage: mbedtls HOST PORT CAFILE\n");
		return 2;
	}
	mbedtls_net_init(&net);
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_x509_crt_init(&ca);
	mbedtls_ssl_config_init(&conf);
	mbedtls_ssl_init(&ssl);
	check("seed", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
	check("config", mbedtls_ssl_config_defaults(&conf, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT));
	if (argv[3][0] != 0) {
		ret = mbedtls_x509_crt_parse_file(&ca, argv[3]);
		if (ret > 0) {
			fprintf(stderr, "%d certificates of the CA file cannot be read\n", ret);
			return 1;
		}
		check("CA", ret);
		mbedtls_ssl_conf_ca_chain(&conf, &ca, NULL);
		mbedtls_ssl_conf_authmode(&conf, MBEDTLS_SSL_VERIFY_REQUIRED);
	} else {
		mbedtls_ssl_conf_authmode(&conf, MBEDTLS_SSL_VERIFY_NONE);
	}
	mbedtls_ssl_conf_rng(&conf, mbedtls_ctr_drbg_random, &random);
	check("setup", mbedtls_ssl_setup(&ssl, &conf));
	check("name", mbedtls_ssl_set_hostname(&ssl, "localhost"));
	check("connect", mbedtls_net_connect(&net, argv[1], argv[2], MBEDTLS_NET_PROTO_TCP));
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	while ((ret = mbedtls_ssl_handshake(&ssl)) == MBEDTLS_ERR_SSL_WANT_READ || ret == MBEDTLS_ERR_SSL_WANT_WRITE)
		;
	check("handshake", ret);
	check("send", mbedtls_ssl_write(&ssl, connect, sizeof connect));
	while (have < sizeof answer) {
		ret = mbedtls_ssl_read(&ssl, answer + have, sizeof answer - have);
		if (ret == MBEDTLS_ERR_SSL_WANT_READ)
			continue;
		check("receive", ret);
		if (ret == 0) {
			fprintf(stderr, "the server closed the connection\n");
			return 1;
		}
		have += (size_t)ret;
	}
	if (answer[0] != 0x20 || answer[3] != 0) {
		fprintf(stderr, "CONNACK %d\n", answer[3]);
		return 1;
	}
	printf("%s %s\n", mbedtls_ssl_get_version(&ssl), mbedtls_ssl_get_ciphersuite(&ssl));
	return 0;
}
